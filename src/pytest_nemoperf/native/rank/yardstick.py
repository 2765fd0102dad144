"""Fixed small workload that each rank times before and after its steps; see records/yardstick.py.

Sizes never change: a stored time compares with every later one of the same device and precision.
"""

from __future__ import annotations

import math
import mmap
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

from pytest_nemoperf.recipes.recipe import Plan, Precision
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_VARIABLE, Yardstick

_MIB: Final = 2**20
_NUM_TIMED: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Sizes of the workload on a kind of device.

    Attributes:
        matmul: Rows and columns of the matrices.
        copy_bytes: Bytes that are copied.
        all_reduce_bytes: Bytes that are summed over the ranks.
        num_calls: Calls of each timed repeat: many on a GPU, where a launch costs more than a small kernel.
    """

    matmul: int
    copy_bytes: int
    all_reduce_bytes: int
    num_calls: int


_CPU: Final = _Sizes(matmul=320, copy_bytes=8 * _MIB, all_reduce_bytes=64 * 1024, num_calls=1)
_CUDA: Final = _Sizes(matmul=4096, copy_bytes=128 * _MIB, all_reduce_bytes=16 * _MIB, num_calls=5)
_MISSING: Final = math.nan


def has_yardstick(plan: Plan) -> bool:
    """Return whether ranks of a plan time the yardstick: not beside another side's ranks, nor under the profiler."""
    return plan.turn is None and not plan.is_profiled and os.environ.get(YARDSTICK_VARIABLE) != YARDSTICK_OFF


def measure_yardstick(device: torch.device, *, precision: Precision) -> list[float]:
    """Return seconds of matrix product, copy and all-reduce on this rank; all ranks must call it together.

    A time is NaN if the device has no room for the workload, or, for the all-reduce, if there is one rank.
    """
    sizes = _CUDA if device.type == "cuda" else _CPU
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    try:
        times = [_time_matmul(sizes, dtype=dtype, device=device), _time_copy(sizes, device=device)]
    except torch.OutOfMemoryError:
        times = [_MISSING, _MISSING]
    times.append(_MISSING)
    if dist.get_world_size() > 1:
        summed = torch.zeros(sizes.all_reduce_bytes // 4, dtype=torch.float32, device=device)
        times[-1] = _median_sec(lambda: dist.all_reduce(summed), num_calls=sizes.num_calls, device=device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return times


def gather_yardsticks(times: list[float], *, device: torch.device) -> tuple[Yardstick, ...]:
    """Return the yardstick of every rank, by rank; empty if one has none. All ranks must call it."""
    local = torch.tensor(times, dtype=torch.float64, device=device)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    yardsticks = []
    for row in gathered:
        matmul_sec, copy_sec, all_reduce_sec = row.tolist()
        if math.isnan(matmul_sec) or math.isnan(copy_sec):
            return ()
        yardsticks.append(
            Yardstick(
                matmul_sec=matmul_sec,
                copy_sec=copy_sec,
                all_reduce_sec=None if math.isnan(all_reduce_sec) else all_reduce_sec,
            )
        )
    return tuple(yardsticks)


def _time_matmul(sizes: _Sizes, *, dtype: torch.dtype, device: torch.device) -> float:
    one = torch.full((sizes.matmul, sizes.matmul), 1.0 / sizes.matmul, dtype=dtype, device=device)
    other = one.clone()
    product = torch.empty_like(one)
    return _median_sec(lambda: torch.mm(one, other, out=product), num_calls=sizes.num_calls, device=device)


def _time_copy(sizes: _Sizes, *, device: torch.device) -> float:
    if device.type == "cuda":
        source = torch.zeros(sizes.copy_bytes, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
    else:
        # Mapped, not allocated: the C library keeps what is freed, and peak memory would show it. The maps end with
        # the last tensor on them.
        source = torch.frombuffer(mmap.mmap(-1, sizes.copy_bytes), dtype=torch.uint8)
        target = torch.frombuffer(mmap.mmap(-1, sizes.copy_bytes), dtype=torch.uint8)
        source.fill_(1)
    return _median_sec(lambda: target.copy_(source), num_calls=sizes.num_calls, device=device)


def _median_sec(call: Callable[[], object], *, num_calls: int, device: torch.device) -> float:
    """Return the median seconds of a call; the first ones, which load and fault in, are not timed."""
    call()
    times = []
    for _ in range(_NUM_TIMED):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(num_calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - started) / num_calls)
    return statistics.median(times)
