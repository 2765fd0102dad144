"""Causes of a verdict: slow phases, a slow node, changes of the environment."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.stragglers import (
    MARGIN_PCT,
    Straggler,
    StragglerEvidence,
    find_straggler,
    is_slowdown_uniform,
)
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.fingerprint import Difference, compare_fingerprints
from pytest_nemoperf.records.metrics import STEP_TIME_SEC
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.report.phases import compare_phases, loss_sentence, rank_groups
from pytest_nemoperf.results.cases import CaseReport
from pytest_nemoperf.verdict.comparison import VerdictKind

_LOSS_KINDS = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})
_MIN_EXPLAINED_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidingBaseline:
    """The runs that a verdict rests on: the newest baseline, or the anchor beside it.

    Attributes:
        word: ``baseline`` or ``anchor``.
        anchor: The anchor's name; empty for the newest baseline.
        runs: One entry per launch.
        provenance: Provenance of these runs.
        reason: Reason they were stored for.
        environment: Environment of the steps; None if it was not stored, as for an anchor.
    """

    word: str
    anchor: str
    runs: tuple[Run, ...]
    provenance: Provenance
    reason: str
    environment: Mapping[str, str] | None

    @property
    def name(self) -> str:
        """Name for sentences, e.g. ``the anchor 1.4``."""
        return f"the {self.word} {self.anchor}".rstrip()


def deciding_baseline(report: CaseReport) -> DecidingBaseline | None:
    """Return the anchor if all deciding comparisons are against it, else the newest baseline; None without one."""
    baseline = report.baseline
    if baseline is None:
        return None
    verdict = report.result.verdict
    anchors = [comparison.anchor for comparison in verdict.comparisons if comparison.kind is verdict.kind]
    if baseline.anchor is not None and anchors and all(anchors):
        return DecidingBaseline(
            word="anchor",
            anchor=baseline.anchor.name,
            runs=baseline.anchor.runs,
            provenance=baseline.anchor.provenance,
            reason="kept in that file beside the newest baseline",
            environment=None,
        )
    return DecidingBaseline(
        word="baseline",
        anchor="",
        runs=baseline.runs,
        provenance=baseline.provenance,
        reason=baseline.reason,
        environment=baseline.environment,
    )


def changed_since(report: CaseReport, *, baseline: DecidingBaseline) -> list[Difference]:
    """Return the differences of the environment, suspects first, without values that one side does not know."""
    then = {**baseline.provenance.environment(), **(baseline.environment or {})}
    now = dict(report.environment)
    if baseline.environment is None or baseline.provenance.source:
        now = _only(now, names=then)
    if report.result.logs:
        then = _only(then, names=now)
    return compare_fingerprints(then, now=now)


def _only(values: Mapping[str, str], *, names: Container[str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if name in names}


def explanations(report: CaseReport, *, baseline: DecidingBaseline) -> Iterator[str]:
    """Yield sentences on the phases that changed, for each group of ranks, and on a slow node."""
    runs = report.result.measurement.runs
    since = f"since {baseline.name}, " if baseline.anchor else ""
    for group in (None, *rank_groups(runs)):
        table = compare_phases(runs, baseline=baseline.runs, group=group)
        if table is None:
            continue
        step = "the step"
        if group is not None:
            step = f"a step of the {group} ranks"
        sentence = loss_sentence(table, step=f"{since}{step}")
        if sentence:
            yield sentence
    sentence = _straggler_sentence(report, baseline=baseline)
    if sentence:
        yield sentence


def _straggler_sentence(report: CaseReport, *, baseline: DecidingBaseline) -> str:
    """Return whether one node or all ranks alike are slower; empty if unknown or the verdict is not a loss.

    A single rank has no peers to compare with. "All alike" needs a baseline with the ranks' busy times, and ranks
    whose busy time does not include waiting for each other.
    """
    if report.result.verdict.kind not in _LOSS_KINDS:
        return ""
    plan = report.result.plan
    runs = report.result.measurement.runs
    num_stages = 1
    if plan is not None and plan.rl is None:
        num_stages = plan.layout.pp
    straggler = find_straggler(runs, baseline=baseline.runs, num_stages=num_stages)
    if straggler is not None:
        is_explained = _explains_loss(straggler, runs=runs, baseline=baseline)
        return _straggler_text(straggler, num_runs=len(runs), is_explained=is_explained)
    if is_slowdown_uniform(runs, baseline=baseline.runs) and not _has_hidden_waits(plan):
        return f"no rank worked {MARGIN_PCT:g}% longer than the others: the code, or all of the machine"
    return ""


def _has_hidden_waits(plan: Plan | None) -> bool:
    """Return whether ranks wait for each other inside a phase, not shown by the kernel's counters, as on GPUs."""
    if plan is None or plan.device == "cpu":
        return False
    layout = plan.layout
    return max(layout.dp_shard, layout.tp, layout.cp, layout.ep) > 1 or plan.rl is not None


def _straggler_text(straggler: Straggler, *, num_runs: int, is_explained: bool) -> str:
    ranks = ", ".join(map(str, straggler.ranks))
    if straggler.is_whole_host:
        subject = f"host {straggler.host} (ranks {ranks})"
    elif straggler.host:
        subject = f"rank {ranks} on host {straggler.host}"
    else:
        subject = f"rank {ranks}"
    match straggler.evidence:
        case StragglerEvidence.WORK:
            loss = f"worked {straggler.excess_pct:.0f}% longer than the others"
        case StragglerEvidence.CLOCK:
            loss = f"had {straggler.excess_pct:.0f}% less of a GPU clock than the others"
    text = f"{subject} {loss}, which wait for it (in {straggler.num_runs} of {count_text(num_runs, 'run')})"
    if is_explained:
        return f"{text}: the node, not the code"
    return f"{text}; that is not all of the loss"


def _explains_loss(straggler: Straggler, *, runs: tuple[Run, ...], baseline: DecidingBaseline) -> bool:
    """Return whether the straggler's excess is at least half of the step's loss."""
    before = figure_over_runs(baseline.runs, metric=STEP_TIME_SEC.name)
    after = figure_over_runs(runs, metric=STEP_TIME_SEC.name)
    if before is None or after is None or after <= before:
        return False
    return straggler.excess_pct / 100 * before >= _MIN_EXPLAINED_SHARE * (after - before)
