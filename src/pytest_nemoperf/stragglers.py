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
from enum import StrEnum
from typing import Final

from pytest_nemoperf.measure import Run

MARGIN_PCT: Final = 5.0
"""How much longer than its peers a rank must have worked: less is seen between equal GPUs of one node."""
_SEEN_SHARE: Final = 0.8
"""Part of the runs in which it must have: one launch may have had bad luck."""
_LEAST_RUNS_WITHOUT_BASELINE: Final = 2


class StragglerEvidence(StrEnum):
    """What a rank stands out by."""

    WORK = "work"
    """It worked longer in a step than the others did."""
    CLOCK = "clock"
    """Its GPU ran at a lower clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank, or all ranks of a host, that the others waited for.

    Attributes:
        ranks: Which.
        host: Its name; empty if not known.
        is_whole_host: They are all ranks of that host, and there are other hosts.
        evidence: What they stand out by.
        excess_pct: How much slower than their peers they were, median over the runs, beyond what was so in the
            baseline, percent.
        num_runs: Runs in which they were.
    """

    ranks: tuple[int, ...]
    host: str
    is_whole_host: bool
    evidence: StragglerEvidence
    excess_pct: float
    num_runs: int


def find_straggler(runs: Sequence[Run], *, baseline: Sequence[Run] = (), num_stages: int = 1) -> Straggler | None:
    """Return the host or the rank that stands out in all or nearly all runs, the worst one; None if none does.

    Where the baseline's runs say what was usual, a rank must also exceed its peers by more than it did in any of those
    runs. Where they don't, only ranks of the same pipeline stage are compared, and one run proves nothing. Clocks of
    GPUs tell where work does not: ranks that wait for each other inside a phase look equally busy.

    Args:
        runs: This session's.
        baseline: Runs to compare with.
        num_stages: Stages of the pipeline; each has equally many consecutive ranks.
    """
    hosts = runs[0].hosts if runs else ()
    work = [_slowness(each, evidence=StragglerEvidence.WORK) for each in (runs, baseline)]
    clocks = [_slowness(each, evidence=StragglerEvidence.CLOCK) for each in (runs, baseline)]
    return _find(*work, hosts=hosts, num_stages=num_stages, evidence=StragglerEvidence.WORK) or _find(
        *clocks, hosts=hosts, num_stages=1, evidence=StragglerEvidence.CLOCK
    )


def slowed_alike(runs: Sequence[Run], *, baseline: Sequence[Run]) -> bool:
    """Return whether no rank worked notably longer than its peers in the median run, compared with the baseline.

    False where it can't be told: with one rank, where one side does not say (no time at all says nothing), or where
    luck alone parts the ranks.
    """
    now, then = ([run.rank_busy_sec for run in each] for each in (runs, baseline))
    sizes = {len(figures) for figures in (*now, *then)}
    if not now or not then or len(sizes) != 1 or sizes <= {0, 1} or not all(map(any, (*now, *then))):
        return False
    usual = [statistics.median(figures) for figures in zip(*then, strict=True)]
    for rank in range(len(usual)):
        excesses = (_excess((rank,), figures=figures, usual=usual, num_stages=1) for figures in now)
        known = [each for each in excesses if each is not None]
        if not known or statistics.median(known) > MARGIN_PCT / 100:
            return False
    return True


def _slowness(runs: Sequence[Run], *, evidence: StragglerEvidence) -> list[tuple[float, ...]]:
    """Return for each run a figure a rank that is larger for a slower one."""
    if evidence is StragglerEvidence.WORK:
        return [run.rank_busy_sec for run in runs]
    return [tuple(1 / clock for clock in run.sm_clock_mhz if clock > 0) for run in runs]


def _find(
    now: Sequence[tuple[float, ...]],
    then: Sequence[tuple[float, ...]],
    *,
    hosts: Sequence[str],
    num_stages: int,
    evidence: StragglerEvidence,
) -> Straggler | None:
    known = [figures for figures in now if len(figures) > 1]
    if not known or len({len(figures) for figures in known}) != 1:
        return None
    before = [figures for figures in then if len(figures) == len(known[0])]
    if not before and len(known) < _LEAST_RUNS_WITHOUT_BASELINE:
        return None
    found = []
    for ranks in _candidates(hosts, num_ranks=len(known[0])):
        excesses = _standing_out(ranks, now=known, then=before, num_stages=num_stages)
        if excesses:
            straggler = Straggler(
                ranks=ranks,
                host=hosts[ranks[0]] if ranks[0] < len(hosts) else "",
                is_whole_host=len(ranks) > 1,
                evidence=evidence,
                excess_pct=100 * statistics.median(excesses),
                num_runs=len(excesses),
            )
            found.append(straggler)
    return max(found, key=lambda each: (each.is_whole_host, each.excess_pct), default=None)


def _candidates(hosts: Sequence[str], *, num_ranks: int) -> list[tuple[int, ...]]:
    """Return what may be slow: each rank, and where there are several hosts all ranks of each."""
    single: list[tuple[int, ...]] = [(rank,) for rank in range(num_ranks)]
    names = dict.fromkeys(hosts[:num_ranks])
    if len(names) < 2:  # noqa: PLR2004 (with one host there is nothing to compare it with)
        return single
    whole = [tuple(rank for rank in range(num_ranks) if hosts[rank] == name) for name in names]
    return [*(ranks for ranks in whole if len(ranks) > 1), *single]


def _standing_out(
    ranks: tuple[int, ...],
    *,
    now: Sequence[tuple[float, ...]],
    then: Sequence[tuple[float, ...]],
    num_stages: int,
) -> list[float]:
    """Return by how much some ranks exceed their peers in the runs in which they do, if those are nearly all."""
    usual = [statistics.median(figures) for figures in zip(*then, strict=True)]
    before = [_excess(ranks, figures=figures, usual=usual, num_stages=num_stages) for figures in then]
    limit = MARGIN_PCT / 100 + max([0.0, *(each for each in before if each is not None)])
    excesses = [_excess(ranks, figures=figures, usual=usual, num_stages=num_stages) for figures in now]
    above = [each for each in excesses if each is not None and each > limit]
    return above if len(above) >= math.ceil(_SEEN_SHARE * len(now)) else []


def _excess(
    ranks: tuple[int, ...], *, figures: Sequence[float], usual: Sequence[float], num_stages: int
) -> float | None:
    """Return by how much some ranks exceed their peers; None if they have none.

    The least of some ranks counts: all of a host must be slow for the host to be. Their peers' median counts.
    """
    num_ranks = len(figures)
    scaled = [figure / (usual[rank] or 1.0) if usual else figure for rank, figure in enumerate(figures)]
    per_stage = max(1, num_ranks // num_stages)
    ratios = []
    for rank in ranks:
        peers = [
            scaled[other]
            for other in range(num_ranks)
            if other not in ranks and (usual or other // per_stage == rank // per_stage)
        ]
        middle = statistics.median(peers) if peers else 0.0
        if middle > 0:
            ratios.append(scaled[rank] / middle - 1)
    return min(ratios, default=None)
