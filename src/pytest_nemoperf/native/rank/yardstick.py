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
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist

from pytest_nemoperf.recipes.recipe import Plan, Precision
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_VARIABLE, Yardstick

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Sizes of the workload on a kind of device.

    Attributes:
        matmul: Rows and columns of the matrices.
        copy_bytes: Bytes that are copied.
        all_reduce_bytes: Bytes that are summed over the ranks.
        num_calls: Calls of each timed repeat: many on a GPU, where a launch costs more than a small kernel.
        num_repeats: Timed repeats, of which the median counts.
    """

    matmul: int
    copy_bytes: int
    all_reduce_bytes: int
    num_calls: int
    num_repeats: int


# A launch of the smallest case takes little more than a second, and both of its yardsticks at most 2% of that. The copy
# is larger than the caches of a core, not than those that cores share: most of its time is faulting in the memory.
_CPU: Final = _Sizes(matmul=256, copy_bytes=3 * _MIB, all_reduce_bytes=64 * 1024, num_calls=1, num_repeats=5)
_CUDA: Final = _Sizes(matmul=4096, copy_bytes=128 * _MIB, all_reduce_bytes=16 * _MIB, num_calls=5, num_repeats=8)
_MISSING: Final = math.nan


def has_yardstick(plan: Plan) -> bool:
    """Return whether ranks of a plan time the yardstick: not beside another side's ranks, nor under the profiler."""
    return plan.turn is None and not plan.is_profiled and os.environ.get(YARDSTICK_VARIABLE) != YARDSTICK_OFF


def measure_yardstick(device: torch.device, *, precision: Precision) -> list[float]:
    """Return seconds of matrix product, copy and all-reduce on this rank; all ranks must call it together.

    A time is NaN if the device has no room for the workload, or, for the all-reduce, if there is one rank or a rank has
    no room: a yardstick must not fail a run that fits.
    """
    sizes = _CUDA if device.type == "cuda" else _CPU
    dtype = torch.float32 if precision is Precision.FP32 else torch.bfloat16
    times = [_MISSING, _MISSING, _MISSING]
    summed: torch.Tensor | None = None
    with suppress(torch.OutOfMemoryError):
        times[:2] = [_time_matmul(sizes, dtype=dtype, device=device), _time_copy(sizes, device=device)]
        summed = torch.zeros(sizes.all_reduce_bytes // 4, dtype=torch.float32, device=device)
    if dist.get_world_size() > 1 and _have_all_room(has_room=summed is not None, device=device):
        times[2] = _median_sec(lambda: dist.all_reduce(summed), sizes=sizes, device=device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return times


def _have_all_room(*, has_room: bool, device: torch.device) -> bool:
    """Return whether every rank has room: a collective that one rank leaves out would never end."""
    num_without = torch.tensor([0.0 if has_room else 1.0], device=device)
    dist.all_reduce(num_without)
    return num_without.item() == 0


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
    return _median_sec(lambda: torch.mm(one, other, out=product), sizes=sizes, device=device)


def _time_copy(sizes: _Sizes, *, device: torch.device) -> float:
    if device.type == "cuda":
        source = torch.zeros(sizes.copy_bytes, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
    else:
        # Mapped, not allocated: the C library keeps what is freed, and peak memory would show it. The maps end with
        # the last tensor on them.
        source = torch.frombuffer(_mapped(sizes.copy_bytes), dtype=torch.uint8)
        target = torch.frombuffer(_mapped(sizes.copy_bytes), dtype=torch.uint8)
        source.fill_(1)
    return _median_sec(lambda: target.copy_(source), sizes=sizes, device=device)


def _mapped(num_bytes: int) -> mmap.mmap:
    """Return new memory of this process alone: shared memory takes twice as long to fault in."""
    return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _median_sec(call: Callable[[], object], *, sizes: _Sizes, device: torch.device) -> float:
    """Return the median seconds of a call; the first ones, which load and fault in, are not timed."""
    call()
    times = []
    for _ in range(sizes.num_repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        for _ in range(sizes.num_calls):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - started) / sizes.num_calls)
    return statistics.median(times)
