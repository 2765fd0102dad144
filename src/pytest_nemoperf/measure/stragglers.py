"""Stragglers: one slow rank or host among many, a fault of the node and not of the code. Pure.

Ranks wait for each other in a step, so their wall times hardly differ, but their busy times do. A rank is compared with
its peers, and that ratio with the baseline's: so pipeline stages and groups of ranks may do different work.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pytest_nemoperf.measure.measurement import Run

MARGIN_PCT: Final = 5.0
"""Least excess of a straggler over its peers: equal GPUs of one node differ by less."""
_MIN_RUNS_SHARE: Final = 0.8
"""Part of the runs in which a straggler must be slow: one launch may be unlucky."""
_MIN_RUNS_WITHOUT_BASELINE: Final = 2


class StragglerEvidence(StrEnum):
    """Kind of figure that shows a straggler."""

    WORK = "work"
    """Its busy time of a step is longer than the others'."""
    CLOCK = "clock"
    """Its GPU ran at a lower clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank, or all ranks of a host, that the others waited for.

    Attributes:
        ranks: Rank numbers.
        host: Name of their host; empty if not known.
        is_whole_host: They are all ranks of that host, and there are other hosts.
        evidence: Figure by which they stand out.
        excess_pct: Excess over their peers relative to the baseline's, median over the runs, percent.
        num_runs: Runs in which they were slow.
    """

    ranks: tuple[int, ...]
    host: str
    is_whole_host: bool
    evidence: StragglerEvidence
    excess_pct: float
    num_runs: int


def find_straggler(runs: Sequence[Run], *, baseline: Sequence[Run] = (), num_stages: int = 1) -> Straggler | None:
    """Return the host or rank that stands out in nearly all runs, the worst one; None if none does.

    With baseline runs, a rank must exceed its peers by more than it did in any of those. Without them, only ranks of
    the same pipeline stage are compared, and one run proves nothing. GPU clocks are compared second: ranks that wait
    for each other inside a phase appear equally busy.

    Args:
        runs: This session's runs.
        baseline: Runs to compare with; may be empty.
        num_stages: Stages of the pipeline; each has equally many consecutive ranks.
    """
    hosts = runs[0].hosts if runs else ()
    for evidence, stages in ((StragglerEvidence.WORK, num_stages), (StragglerEvidence.CLOCK, 1)):
        now = _slowness(runs, evidence=evidence)
        then = _slowness(baseline, evidence=evidence)
        straggler = _find(now, then, hosts=hosts, num_stages=stages, evidence=evidence)
        if straggler is not None:
            return straggler
    return None


def is_slowdown_uniform(runs: Sequence[Run], *, baseline: Sequence[Run]) -> bool:
    """Return whether no rank was notably busier than its peers in the median run, relative to the baseline.

    False if it can't be decided: with one rank, or without busy times above zero on both sides.
    """
    now = _slowness(runs, evidence=StragglerEvidence.WORK)
    then = _slowness(baseline, evidence=StragglerEvidence.WORK)
    sizes = set(map(len, [*now, *then]))
    if not now or not then or len(sizes) != 1 or sizes <= {0, 1} or not all(map(any, [*now, *then])):
        return False
    baseline_figures = list(map(statistics.median, zip(*then, strict=True)))
    for rank in range(len(baseline_figures)):
        excesses = _excesses((rank,), runs=now, baseline_figures=baseline_figures, num_stages=1)
        if not excesses or statistics.median(excesses) > MARGIN_PCT / 100:
            return False
    return True


def _slowness(runs: Sequence[Run], *, evidence: StragglerEvidence) -> list[tuple[float, ...]]:
    """Return for each run one figure per rank, larger for a slower rank."""
    if evidence is StragglerEvidence.WORK:
        return [run.rank_busy_sec for run in runs]
    slowness = []
    for run in runs:
        slowness.append(tuple(1 / clock for clock in run.sm_clock_mhz if clock > 0))
    return slowness


def _find(
    now: Sequence[tuple[float, ...]],
    then: Sequence[tuple[float, ...]],
    *,
    hosts: Sequence[str],
    num_stages: int,
    evidence: StragglerEvidence,
) -> Straggler | None:
    """Return the worst straggler by one kind of figures, given by run and rank for both sides."""
    known = [figures for figures in now if len(figures) > 1]
    if not known or len(set(map(len, known))) != 1:
        return None
    num_ranks = len(known[0])
    before = [figures for figures in then if len(figures) == num_ranks]
    if not before and len(known) < _MIN_RUNS_WITHOUT_BASELINE:
        return None
    stragglers = []
    for ranks in _candidates(hosts, num_ranks=num_ranks):
        excesses = _excesses_above_limit(ranks, now=known, then=before, num_stages=num_stages)
        if excesses:
            host = ""
            if ranks[0] < len(hosts):
                host = hosts[ranks[0]]
            straggler = Straggler(
                ranks=ranks,
                host=host,
                is_whole_host=len(ranks) > 1,
                evidence=evidence,
                excess_pct=100 * statistics.median(excesses),
                num_runs=len(excesses),
            )
            stragglers.append(straggler)
    return max(stragglers, key=lambda each: (each.is_whole_host, each.excess_pct), default=None)


def _candidates(hosts: Sequence[str], *, num_ranks: int) -> list[tuple[int, ...]]:
    """Return all ranks of each host, if there are several hosts, then each single rank."""
    by_host: dict[str, list[int]] = {}
    for rank, host in enumerate(hosts[:num_ranks]):
        by_host.setdefault(host, []).append(rank)
    candidates: list[tuple[int, ...]] = []
    if len(by_host) > 1:
        for ranks in by_host.values():
            if len(ranks) > 1:
                candidates.append(tuple(ranks))
    candidates += [(rank,) for rank in range(num_ranks)]
    return candidates


def _excesses_above_limit(
    ranks: tuple[int, ...],
    *,
    now: Sequence[tuple[float, ...]],
    then: Sequence[tuple[float, ...]],
    num_stages: int,
) -> list[float]:
    """Return the excesses of some ranks over their peers, by run above the limit; empty if those are too few runs."""
    baseline_figures = list(map(statistics.median, zip(*then, strict=True)))
    before = _excesses(ranks, runs=then, baseline_figures=baseline_figures, num_stages=num_stages)
    limit = MARGIN_PCT / 100 + max([0.0, *before])
    excesses = _excesses(ranks, runs=now, baseline_figures=baseline_figures, num_stages=num_stages)
    above = [excess for excess in excesses if excess > limit]
    if len(above) < math.ceil(_MIN_RUNS_SHARE * len(now)):
        return []
    return above


def _excesses(
    ranks: tuple[int, ...], *, runs: Sequence[tuple[float, ...]], baseline_figures: Sequence[float], num_stages: int
) -> list[float]:
    """Return the excess of some ranks over their peers in each run with peers."""
    excesses = []
    for figures in runs:
        excess = _excess(ranks, figures=figures, baseline_figures=baseline_figures, num_stages=num_stages)
        if excess is not None:
            excesses.append(excess)
    return excesses


def _excess(
    ranks: tuple[int, ...], *, figures: Sequence[float], baseline_figures: Sequence[float], num_stages: int
) -> float | None:
    """Return the least excess of some ranks over the median of their peers; None without peers.

    The least counts, since a host is slow only if all its ranks are.

    Args:
        ranks: The ranks.
        figures: Figure of each rank in one run, larger for a slower rank.
        baseline_figures: Figure of each rank in the baseline; empty if there is none: then peers are of the same stage.
        num_stages: Stages of the pipeline.
    """
    scaled = list(figures)
    for rank, baseline_figure in enumerate(baseline_figures):
        scaled[rank] /= baseline_figure or 1.0
    per_stage = max(1, len(figures) // num_stages)
    ratios = []
    for rank in ranks:
        peers = []
        for other, figure in enumerate(scaled):
            is_alike = baseline_figures or other // per_stage == rank // per_stage
            if other not in ranks and is_alike:
                peers.append(figure)
        if peers and statistics.median(peers) > 0:
            ratio = scaled[rank] / statistics.median(peers) - 1
            ratios.append(ratio)
    return min(ratios, default=None)
