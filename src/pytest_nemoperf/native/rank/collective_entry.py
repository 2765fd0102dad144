"""One rank that times a collective; see runs/collective.py.

As in nccl-tests, calls are timed in groups, and before them the result of one call is checked. Other than there the
slowest rank gives the time, as everywhere in this package.

References:
    https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md
"""

# N numbers of the message, P numbers of a rank's part of it

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.errors import PlanError, RecordError
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.native.device import environment
from pytest_nemoperf.native.rank.entry import join_ranks, read_environment, report_failure
from pytest_nemoperf.native.rank.output import ProgressWriter, gather_hosts, write_atomic
from pytest_nemoperf.native.rank.peers import Peers
from pytest_nemoperf.records.collective import (
    CALLS_FILE,
    COLLECTIVE_FILE,
    Collective,
    CollectiveCalls,
    CollectiveKind,
)

BEGUN: Final = 0
"""Step of the progress file that is written before the timed calls."""
ENDED: Final = 1
"""The same behind them."""
_DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SUMS: Final = (CollectiveKind.ALL_REDUCE, CollectiveKind.REDUCE_SCATTER)
_NUM_TERMS: Final = 3
"""Different terms of a sum: in bf16, whole numbers are exact up to 256, and 64 ranks sum up to 127."""
_WARMUP_CALLS: Final = 5
_GROUP_SEC: Final = 0.005  # far above the cost of a barrier and of reading the clock
_LEAST_SEC: Final = 1.0  # twice what a busy machine shows in, see runs/passes.py
_MIN_GROUPS: Final = 10
_MAX_GROUPS: Final = 200


def main() -> None:
    """Time the collective of the run directory on this rank; rank 0 writes the calls.

    Raises:
        LaunchError: If the environment is incomplete.
        Exception: Any error of the rank, after it was written to its error file.
    """
    env = read_environment()
    peers = Peers(rank=env.rank, world_size=env.world_size, run_dir=env.run_dir)
    try:
        collective = read_data(Collective, env.run_dir / COLLECTIVE_FILE)
        if collective.num_gpus != env.world_size:
            raise PlanError(f"WORLD_SIZE={env.world_size} but {collective.case} has {collective.num_gpus} ranks")
        device = join_ranks(collective, env=env, peers=peers)
        check_result(collective, device=device)
        progress = ProgressWriter(env.run_dir, last_step=ENDED) if env.rank == 0 else None
        calls_per_group, times = time_calls(collective, device=device, progress=progress)
        hosts = gather_hosts()
        if env.rank == 0:
            calls = CollectiveCalls(
                times_sec=tuple(times),
                calls_per_group=calls_per_group,
                hosts=hosts,
                environment=environment(device),
            )
            write_atomic(env.run_dir / CALLS_FILE, to_json(calls))
        dist.barrier()  # rank 0 writes the calls for all: until then its failure is everyone's
        peers.done()
        dist.destroy_process_group()
    except Exception as error:
        report_failure(error, env=env, peers=peers)
        raise


def check_result(collective: Collective, *, device: torch.device) -> None:
    """Check one call with numbers that tell the ranks apart: a fast wrong collective must not pass.

    Raises:
        RecordError: If a number of the result is another.
    """
    rank = dist.get_rank()
    num_ranks = dist.get_world_size()
    by_rank = torch.arange(1, num_ranks + 1, dtype=_DTYPES[collective.dtype], device=device)
    if collective.kind in _SUMS:
        by_rank = (by_rank - 1) % _NUM_TERMS + 1
    message_N = by_rank[rank].repeat(collective.num_items)
    out = _call_of(collective, message_N=message_N)()
    match collective.kind:
        case kind if kind in _SUMS:
            expected = by_rank.sum().expand_as(out)
        case CollectiveKind.ALL_GATHER | CollectiveKind.ALL_TO_ALL:
            expected = by_rank.repeat_interleave(out.numel() // num_ranks)
        case CollectiveKind.SEND_RECV:
            expected = by_rank[rank - 1].expand_as(out)
    num_wrong = int((out != expected).sum())
    if num_wrong:
        raise RecordError(f"{collective.case}: {num_wrong:,} of {out.numel():,} numbers of rank {rank} are wrong")


def time_calls(
    collective: Collective, *, device: torch.device, progress: ProgressWriter | None
) -> tuple[int, list[float]]:
    """Return the calls of a group, and seconds a call of each group on its slowest rank. All ranks must call it."""
    # Zeros: sums of anything else grow from call to call.
    message_N = torch.zeros(collective.num_items, dtype=_DTYPES[collective.dtype], device=device)
    call = _call_of(collective, message_N=message_N)
    _time_group(call, num_calls=_WARMUP_CALLS, device=device)
    first = _time_group(call, num_calls=_WARMUP_CALLS, device=device) / _WARMUP_CALLS
    num_calls, num_groups = _agreed_counts(first, device=device)
    if progress is not None:
        progress.step_done(BEGUN, step_time_sec=first)
    times = []
    for _ in range(num_groups):
        dist.barrier()
        times.append(_time_group(call, num_calls=num_calls, device=device, inject_pct=collective.inject_pct))
    if progress is not None:
        progress.step_done(ENDED, step_time_sec=times[-1])
    slowest = torch.tensor(times, dtype=torch.float64, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return num_calls, [seconds / num_calls for seconds in slowest.tolist()]


def _call_of(collective: Collective, *, message_N: Tensor) -> Callable[[], Tensor]:
    """Return the collective as a function that returns its result; a rank's part of the message is its first."""
    num_ranks = dist.get_world_size()
    part_P = message_N[: message_N.numel() // num_ranks].clone()
    match collective.kind:
        case CollectiveKind.ALL_REDUCE:
            return lambda: _all_reduced(message_N)
        case CollectiveKind.ALL_GATHER:
            return lambda: _gathered(part_P, out_N=message_N)
        case CollectiveKind.REDUCE_SCATTER:
            return lambda: _scattered(message_N, out_P=part_P)
        case CollectiveKind.ALL_TO_ALL:
            received_N = torch.empty_like(message_N)
            return lambda: _exchanged(message_N, out_N=received_N)
        case CollectiveKind.SEND_RECV:
            received_N = torch.empty_like(message_N)
            return lambda: _passed_on(message_N, out_N=received_N)


def _all_reduced(message_N: Tensor) -> Tensor:
    dist.all_reduce(message_N)
    return message_N


def _gathered(part_P: Tensor, *, out_N: Tensor) -> Tensor:
    dist.all_gather_into_tensor(out_N, part_P)
    return out_N


def _scattered(message_N: Tensor, *, out_P: Tensor) -> Tensor:
    dist.reduce_scatter_tensor(out_P, message_N)
    return out_P


def _exchanged(message_N: Tensor, *, out_N: Tensor) -> Tensor:
    dist.all_to_all_single(out_N, message_N)
    return out_N


def _passed_on(message_N: Tensor, *, out_N: Tensor) -> Tensor:
    rank = dist.get_rank()
    num_ranks = dist.get_world_size()
    send = dist.P2POp(dist.isend, message_N, (rank + 1) % num_ranks)
    receive = dist.P2POp(dist.irecv, out_N, (rank - 1) % num_ranks)
    for work in dist.batch_isend_irecv([send, receive]):
        work.wait()
    return out_N


def _time_group(call: Callable[[], object], *, num_calls: int, device: torch.device, inject_pct: float = 0.0) -> float:
    """Return the seconds of so many calls on this rank."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    for _ in range(num_calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    if inject_pct:
        time.sleep((time.perf_counter() - started) * inject_pct / 100.0)
    return time.perf_counter() - started


def _agreed_counts(call_sec: float, *, device: torch.device) -> tuple[int, int]:
    """Return calls of a group and number of groups, by the slowest rank's time of a call; equal on all ranks."""
    slowest = torch.tensor(call_sec, dtype=torch.float64, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    seconds = slowest.item()
    num_calls = max(1, math.ceil(_GROUP_SEC / seconds))
    num_groups = math.ceil(_LEAST_SEC / (num_calls * seconds))
    return num_calls, min(max(num_groups, _MIN_GROUPS), _MAX_GROUPS)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as in entry.py: the interpreter's teardown races with gloo's threads
