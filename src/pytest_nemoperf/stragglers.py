"""One slow rank among many: the node, not the code. Pure.

Ranks of a step end together, because they wait for each other, so their wall times hardly differ. What differs is how
long each worked itself. A rank is compared with its peers, and the result with what it was in the baseline: then it
does not matter that stages of a pipeline, or ranks of different groups, do different work.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.measure import Run

MARGIN_PCT: Final = 5.0
"""How much longer than its peers a rank must have worked: less is seen between equal GPUs of one node."""
SEEN_SHARE: Final = 0.8
"""Part of the runs in which it must have: one launch may have had bad luck."""
_LEAST_RUNS_WITHOUT_BASELINE: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank, or all ranks of a host, that the others waited for.

    Attributes:
        ranks: Which.
        host: Its name; empty if not known.
        is_whole_host: They are all ranks of that host, and there are other hosts.
        excess_pct: How much longer they worked than their peers, median over the runs, beyond what was so in the
            baseline, percent.
        num_runs: Runs in which they did.
    """

    ranks: tuple[int, ...]
    host: str
    is_whole_host: bool
    excess_pct: float
    num_runs: int


def find_straggler(runs: Sequence[Run], *, baseline: Sequence[Run] = (), num_stages: int = 1) -> Straggler | None:
    """Return the host or the rank that stands out in all or nearly all runs, the worst one; None if none does.

    Where the baseline's runs say how long ranks worked, a rank must also exceed its peers by more than it did in any
    of those runs. Where they don't, only ranks of the same pipeline stage are compared, and one run proves nothing.

    Args:
        runs: This session's.
        baseline: Runs to compare with.
        num_stages: Stages of the pipeline; each has equally many consecutive ranks.
    """
    known = [run for run in runs if len(run.rank_busy_sec) > 1]
    if not known or len({len(run.rank_busy_sec) for run in known}) != 1:
        return None
    then = [run for run in baseline if len(run.rank_busy_sec) == len(known[0].rank_busy_sec)]
    if not then and len(known) < _LEAST_RUNS_WITHOUT_BASELINE:
        return None
    found = [
        straggler
        for ranks in _candidates(known[0].hosts, num_ranks=len(known[0].rank_busy_sec))
        if (straggler := _judge(ranks, runs=known, baseline=then, num_stages=num_stages))
    ]
    return max(found, key=lambda each: (each.is_whole_host, each.excess_pct), default=None)


def _candidates(hosts: Sequence[str], *, num_ranks: int) -> list[tuple[int, ...]]:
    """Return what may be slow: each rank, and where there are several hosts all ranks of each."""
    single: list[tuple[int, ...]] = [(rank,) for rank in range(num_ranks)]
    names = dict.fromkeys(hosts[:num_ranks])
    if len(names) < 2:  # noqa: PLR2004 (with one host there is nothing to compare it with)
        return single
    whole = [tuple(rank for rank in range(num_ranks) if hosts[rank] == name) for name in names]
    return [*(ranks for ranks in whole if len(ranks) > 1), *single]


def _judge(
    ranks: tuple[int, ...], *, runs: Sequence[Run], baseline: Sequence[Run], num_stages: int
) -> Straggler | None:
    usual = _usual_times(baseline)
    excesses = [_excess(ranks, run=run, usual=usual, num_stages=num_stages) for run in runs]
    before = [_excess(ranks, run=run, usual=usual, num_stages=num_stages) for run in baseline]
    limit = MARGIN_PCT / 100 + max([0.0, *(each for each in before if each is not None)])
    num_seen = sum(each is not None and each > limit for each in excesses)
    if num_seen == 0 or num_seen < math.ceil(SEEN_SHARE * len(runs)):
        return None
    hosts = runs[0].hosts
    host = hosts[ranks[0]] if ranks[0] < len(hosts) else ""
    return Straggler(
        ranks=ranks,
        host=host,
        is_whole_host=len(ranks) > 1,
        excess_pct=100 * statistics.median(each for each in excesses if each is not None),
        num_runs=num_seen,
    )


def _usual_times(baseline: Sequence[Run]) -> tuple[float, ...]:
    """Return how long each rank usually works; nothing without a baseline that says so."""
    return tuple(statistics.median(times) for times in zip(*(run.rank_busy_sec for run in baseline), strict=True))


def _excess(ranks: tuple[int, ...], *, run: Run, usual: Sequence[float], num_stages: int) -> float | None:
    """Return by how much some ranks worked longer than their peers; None if they have none.

    The least of some ranks counts: all of a host must be slow for the host to be. Their peers' median counts.
    """
    num_ranks = len(run.rank_busy_sec)
    times = [seconds / (usual[rank] or 1.0) if usual else seconds for rank, seconds in enumerate(run.rank_busy_sec)]
    per_stage = max(1, num_ranks // num_stages)
    ratios = []
    for rank in ranks:
        peers = [
            times[other]
            for other in range(num_ranks)
            if other not in ranks and (usual or other // per_stage == rank // per_stage)
        ]
        middle = statistics.median(peers) if peers else 0.0
        if middle > 0:
            ratios.append(times[rank] / middle - 1)
    return min(ratios, default=None)
