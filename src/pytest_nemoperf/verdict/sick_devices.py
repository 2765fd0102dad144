"""Sick devices: a rank's GPU far below its own baseline while the others are not. Pure.

A sick device is a fault of one GPU, and a run on it says nothing of the code. What all ranks have lost is the machine,
the libraries or the code.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.machine_key import is_gpu_key

MIN_SPEED_SHARE: Final = 0.75
"""Share of its baseline's and of its peers' speed below which a rank's yardstick shows a sick device.

Between launches the ratio of two ranks' matrix products varies by 20% on a busy 2-core machine, that of copies by 30%
(one standard deviation, 92 launches): one launch would show a sick rank in 26% of 506 pairs of sessions, two in none.
"""
MIN_CLOCK_SHARE: Final = 0.85
"""Share of the baseline's clock below which a GPU is sick. At its power cap a sound H100 runs from 1,725 to 1,980 MHz,
13% apart, depending on the kernels."""
MAX_POWER_DIFFERENCE: Final = 0.05
"""Difference of a GPU's power from its baseline's up to which the two are equal. A denser kernel draws more at a lower
clock, and a lower cap, a clock that an administrator set or waiting for the host take less: none is a sick device."""
_MIN_RUNS: Final = 2
"""Runs in which a device must be slow, all of them: one launch may be unlucky."""
PARTS: Final[Mapping[str, str]] = MappingProxyType(
    {"matmul_sec": "matrix product", "copy_sec": "copy", "all_reduce_sec": "all-reduce"}
)
"""Names of the parts of a yardstick, by field."""
_PARTS_OF_A_RANK: Final = ("matmul_sec", "copy_sec")
"""Parts that a rank does by itself; an all-reduce waits for the slowest."""
"""Parts of a yardstick that a rank does alone; all ranks wait in the all-reduce."""
_REMEDY: Final = (
    "look at nvidia-smi -q of that GPU (clocks, performance, remapped rows, retired pages), reset or replace it, or "
    "leave it out with CUDA_VISIBLE_DEVICES"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRank:
    """A rank with a yardstick far slower than in the baseline and than its peers'.

    Attributes:
        rank: Its number.
        part: Name of the part of the yardstick.
        of_own: Its speed, as a share of its own in the baseline.
        of_peers: Its speed, as a share of the other ranks' in these runs.
    """

    rank: int
    part: str
    of_own: float
    of_peers: float


def sick_devices(
    now_runs: Sequence[Run], baseline_runs: Sequence[Run], *, machine: Mapping[str, str | int]
) -> list[str]:
    """Return a sentence for each GPU that is sick, with the evidence, the rule and a remedy.

    On a CPU there is none: its ranks have no device of their own, and the scheduler moves them from core to core.

    Args:
        now_runs: This session's runs.
        baseline_runs: Runs of the baseline, on the same number of GPUs.
        machine: Key of this machine.
    """
    if not is_gpu_key(machine):
        return []
    problems = []
    for slow in slow_ranks(now_runs, baseline_runs):
        problems.append(
            f"{_device(slow.rank, runs=now_runs)} is sick: it did its {slow.part} of the fixed workload at "
            f"{slow.of_own:.0%} of its speed in the baseline and at {slow.of_peers:.0%} of the other ranks' speed, in "
            f"all {count_text(len(now_runs), 'run')} (a sound one: at least {MIN_SPEED_SHARE:.0%}); {_REMEDY}"
        )
    return problems + _low_clocks(now_runs, baseline_runs)


def slow_ranks(now_runs: Sequence[Run], baseline_runs: Sequence[Run]) -> list[SlowRank]:
    """Return the ranks with a yardstick far below their own baseline and their peers in all runs, with its worst part.

    None is returned for one rank, which has no peers, nor if all are slow by as much.
    """
    slow: dict[int, SlowRank] = {}
    for name in _PARTS_OF_A_RANK:
        now = _by_rank(now_runs, partial(_times, name=name))
        then = _by_rank([run for run in baseline_runs if run.yardsticks], partial(_times, name=name))
        if len(now) < _MIN_RUNS or not then or len(now[0]) != len(then[0]):
            continue
        for rank in range(len(now[0])):
            own = _own_shares(rank, now=now, then=then)
            peers_now = _peer_shares(rank, runs=now)
            if not peers_now:
                continue
            peers_then = statistics.median(_peer_shares(rank, runs=then))
            relative = [share / peers_then for share in peers_now]
            if max(*own, *peers_now, *relative) < MIN_SPEED_SHARE:
                found = SlowRank(
                    rank=rank, part=PARTS[name], of_own=statistics.median(own), of_peers=statistics.median(peers_now)
                )
                if rank not in slow or found.of_peers < slow[rank].of_peers:
                    slow[rank] = found
    return [slow[rank] for rank in sorted(slow)]


def _times(run: Run, *, name: str) -> tuple[float, ...]:
    return tuple(getattr(each, name) for each in run.yardsticks)


def _by_rank(runs: Sequence[Run], values: Callable[[Run], tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Return a figure by rank of each run; empty if a run lacks it, or they differ in their number of ranks."""
    rows = [values(run) for run in runs]
    if not rows or not all(rows) or len(set(map(len, rows))) != 1:
        return []
    return rows


def _own_shares(rank: int, *, now: Sequence[Sequence[float]], then: Sequence[Sequence[float]]) -> list[float]:
    """Return a rank's speed in each run as a share of that in the baseline, from times."""
    baseline = statistics.median(row[rank] for row in then)
    return [baseline / row[rank] for row in now]


def _peer_shares(rank: int, *, runs: Sequence[Sequence[float]]) -> list[float]:
    """Return a rank's speed in each run as a share of the other ranks', from times; empty for one rank."""
    shares = []
    for row in runs:
        others = [time for other, time in enumerate(row) if other != rank]
        if not others:
            return []
        shares.append(statistics.median(others) / row[rank])
    return shares


def _low_clocks(now_runs: Sequence[Run], baseline_runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each GPU with a clock far below its baseline's that its power does not explain.

    At equal power a low clock is the GPU's own. At less power it is only if the other GPUs keep theirs: a power cap and
    set clocks usually hold for all of them, and are suspects.
    """
    clocks_now = _by_rank(now_runs, lambda run: run.sm_clock_mhz)
    with_power = [run for run in baseline_runs if run.gpu_power_w]  # older runs of the baseline have none
    clocks_then = _by_rank(with_power, lambda run: run.sm_clock_mhz)
    powers_now = _by_rank(now_runs, lambda run: run.gpu_power_w)
    powers_then = _by_rank(with_power, lambda run: run.gpu_power_w)
    sides = (clocks_now, clocks_then, powers_now, powers_then)
    if len(now_runs) < _MIN_RUNS or not all(sides) or len({len(side[0]) for side in sides}) != 1:
        return []
    problems = []
    for rank in range(len(clocks_now[0])):
        clock_then = statistics.median(row[rank] for row in clocks_then)
        power_then = statistics.median(row[rank] for row in powers_then)
        power_now = statistics.median(row[rank] for row in powers_now)
        clock_now = statistics.median(row[rank] for row in clocks_now)
        if not clock_then or not power_then or max(row[rank] for row in clocks_now) >= MIN_CLOCK_SHARE * clock_then:
            continue
        difference = power_now / power_then - 1
        peer_share = _clock_of_peers(rank, clocks=clocks_now)
        is_alone = difference < 0 and peer_share < MIN_CLOCK_SHARE
        if not is_alone and abs(difference) > MAX_POWER_DIFFERENCE:
            continue
        peers = f", and at {peer_share:.0%} of the other GPUs' clock" if peer_share < MIN_CLOCK_SHARE else ""
        problems.append(
            f"{_device(rank, runs=now_runs)} is sick: its clock was {clock_now:,.0f} MHz at {power_now:,.0f} W, in the "
            f"baseline {clock_then:,.0f} MHz at {power_then:,.0f} W{peers} (a sound one: at least "
            f"{MIN_CLOCK_SHARE:.0%} of the baseline's clock at equal power); {_REMEDY}"
        )
    return problems


def _clock_of_peers(rank: int, *, clocks: Sequence[Sequence[float]]) -> float:
    """Return the largest share that a GPU's clock had of the other GPUs' in a run; infinite for one GPU."""
    shares = []
    for row in clocks:
        others = [clock for other, clock in enumerate(row) if other != rank]
        if not others or not statistics.median(others):
            return math.inf
        shares.append(row[rank] / statistics.median(others))
    return max(shares)


def _device(rank: int, *, runs: Sequence[Run]) -> str:
    """Return the name of a rank's GPU: its number among the visible ones of its host."""
    hosts = runs[-1].hosts
    if rank >= len(hosts) or not hosts[rank]:
        return f"the GPU of rank {rank}"
    number = hosts[:rank].count(hosts[rank])
    return f"the GPU of rank {rank} (GPU {number} of host {hosts[rank]})"
