"""Who may be to blame: a slow node or the code, and what changed around them. Sentences and rows from values."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.baseline import Baseline
from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.fingerprint import Difference, compare_fingerprints
from pytest_nemoperf.measure import Run, median_over_runs
from pytest_nemoperf.metrics import STEP_TIME_SEC
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.phases import compare_phases, loss_sentence
from pytest_nemoperf.results import CaseReport
from pytest_nemoperf.stragglers import MARGIN_PCT, Evidence, Straggler, find_straggler, slowed_alike

_BLAMED = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})
_MOST_OF_IT = 0.5


def changed_since(report: CaseReport, *, baseline: Baseline) -> list[Difference]:
    """Return what surrounds the case and is not what it was at the baseline, suspects first."""
    return compare_fingerprints({**baseline.provenance.environment(), **baseline.environment}, now=report.environment)


def explanations(report: CaseReport, *, baseline: Baseline) -> Iterator[str]:
    """Yield why a judged case is as it is: where the time of each group's step went, and who is slow."""
    runs = report.result.measurement.runs
    for group in (None, *dict.fromkeys(name for run in runs for name in run.groups)):
        table = compare_phases(runs, baseline=baseline.runs, group=group)
        step = "the step" if group is None else f"a step of the {group} ranks"
        if table is not None and (sentence := loss_sentence(table, step=step)):
            yield sentence
    if sentence := blame_sentence(report, baseline=baseline):
        yield sentence


def blame_sentence(report: CaseReport, *, baseline: Baseline) -> str:
    """Return whether one node or all ranks alike are slower; empty where nobody can be blamed or it can't be told.

    One rank has no peers; and "all alike" needs a baseline that says how long ranks worked, and ranks whose waiting
    is told from their work.
    """
    if report.result.verdict.kind not in _BLAMED:
        return ""
    plan, runs = report.result.plan, report.result.measurement.runs
    straggler = find_straggler(
        runs, baseline=baseline.runs, num_stages=1 if plan is None or plan.rl is not None else plan.layout.pp
    )
    if straggler is not None:
        return _straggler_text(straggler, num_runs=len(runs), explains=_explains(straggler, runs=runs, then=baseline))
    if slowed_alike(runs, baseline=baseline.runs) and not _hides_waiting(plan):
        return f"no rank worked {MARGIN_PCT:g}% longer than the others: the code, or all of the machine"
    return ""


def _hides_waiting(plan: Plan | None) -> bool:
    """Return whether ranks wait for each other inside a phase and no count of the kernel tells: GPUs, most layouts."""
    if plan is None or plan.device == "cpu":
        return False
    layout = plan.layout
    return max(layout.dp_shard, layout.tp, layout.cp, layout.ep) > 1 or plan.rl is not None


def _straggler_text(straggler: Straggler, *, num_runs: int, explains: bool) -> str:
    numbers = ", ".join(map(str, straggler.ranks))
    where = f" on host {straggler.host}" if straggler.host else ""
    who = f"host {straggler.host} (ranks {numbers})" if straggler.is_whole_host else f"rank {numbers}{where}"
    seen = f"in {straggler.num_runs} of {num_runs} runs"
    did = {
        Evidence.WORK: f"worked {straggler.excess_pct:.0f}% longer than the others",
        Evidence.CLOCK: f"had {straggler.excess_pct:.0f}% less of a GPU clock than the others",
    }
    text = f"{who} {did[straggler.evidence]}, which wait for it ({seen})"
    return f"{text}: the node, not the code" if explains else f"{text}; that is not all of the loss"


def _explains(straggler: Straggler, *, runs: tuple[Run, ...], then: Baseline) -> bool:
    """Return whether what the straggler worked longer is most of what the step lost."""
    before, after = (median_over_runs(each, metric=STEP_TIME_SEC.name) for each in (then.runs, runs))
    if before is None or after is None or after <= before:
        return False
    return straggler.excess_pct / 100 * before >= _MOST_OF_IT * (after - before)
