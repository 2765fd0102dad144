"""Who may be to blame: a slow node or the code, and what changed around them. Sentences and rows from values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.fingerprint import Difference, compare_fingerprints
from pytest_nemoperf.measure import Run, median_over_runs
from pytest_nemoperf.metrics import STEP_TIME_SEC
from pytest_nemoperf.provenance import Provenance
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.phases import compare_phases, loss_sentence, rank_groups
from pytest_nemoperf.results import CaseReport
from pytest_nemoperf.stragglers import MARGIN_PCT, Straggler, StragglerEvidence, find_straggler, slowed_alike

_BLAMED = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})
_MOST_OF_IT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidingBaseline:
    """What a verdict rests on, and is to be explained by: the newest baseline, or the anchor beside it.

    Attributes:
        word: ``baseline`` or ``anchor``.
        anchor: The anchor's name; empty for the newest baseline.
        runs: One entry a launch.
        provenance: Where they come from.
        reason: Why they are stored.
        environment: What was seen where the steps ran; None where that is not kept, as of an anchor.
    """

    word: str
    anchor: str
    runs: tuple[Run, ...]
    provenance: Provenance
    reason: str
    environment: Mapping[str, str] | None

    @property
    def name(self) -> str:
        """As sentences have it, e.g. ``the anchor 1.4``."""
        return f"the {self.word} {self.anchor}".rstrip()


def decisive_of(report: CaseReport) -> DecidingBaseline | None:
    """Return what a case's verdict rests on: the anchor, if that alone is why; None without a baseline."""
    baseline, verdict = report.baseline, report.result.verdict
    if baseline is None:
        return None
    deciding = [comparison for comparison in verdict.comparisons if comparison.kind is verdict.kind]
    if baseline.anchor is not None and deciding and all(comparison.anchor for comparison in deciding):
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


def changed_since(report: CaseReport, *, then: DecidingBaseline) -> list[Difference]:
    """Return what surrounds the case and is not what it was, suspects first; what was not kept can't differ."""
    known, now = then.provenance.environment(), report.environment
    if then.environment is None:
        return compare_fingerprints(known, now={name: value for name, value in now.items() if name in known})
    return compare_fingerprints({**known, **then.environment}, now=now)


def explanations(report: CaseReport, *, then: DecidingBaseline) -> Iterator[str]:
    """Yield why a judged case is as it is: where the time of each group's step went, and who is slow."""
    runs = report.result.measurement.runs
    since = f"since {then.name}, " if then.anchor else ""
    for group in (None, *rank_groups(runs)):
        table = compare_phases(runs, baseline=then.runs, group=group)
        step = "the step" if group is None else f"a step of the {group} ranks"
        if table is not None and (sentence := loss_sentence(table, step=f"{since}{step}")):
            yield sentence
    if sentence := blame_sentence(report, then=then):
        yield sentence


def blame_sentence(report: CaseReport, *, then: DecidingBaseline) -> str:
    """Return whether one node or all ranks alike are slower; empty where nobody can be blamed or it can't be told.

    One rank has no peers; and "all alike" needs a baseline that says how long ranks worked, and ranks whose waiting
    is told from their work.
    """
    if report.result.verdict.kind not in _BLAMED:
        return ""
    plan, runs = report.result.plan, report.result.measurement.runs
    straggler = find_straggler(
        runs, baseline=then.runs, num_stages=1 if plan is None or plan.rl is not None else plan.layout.pp
    )
    if straggler is not None:
        return _straggler_text(straggler, num_runs=len(runs), explains=_explains(straggler, runs=runs, then=then))
    if slowed_alike(runs, baseline=then.runs) and not _hides_waiting(plan):
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
        StragglerEvidence.WORK: f"worked {straggler.excess_pct:.0f}% longer than the others",
        StragglerEvidence.CLOCK: f"had {straggler.excess_pct:.0f}% less of a GPU clock than the others",
    }
    text = f"{who} {did[straggler.evidence]}, which wait for it ({seen})"
    return f"{text}: the node, not the code" if explains else f"{text}; that is not all of the loss"


def _explains(straggler: Straggler, *, runs: tuple[Run, ...], then: DecidingBaseline) -> bool:
    """Return whether what the straggler worked longer is most of what the step lost."""
    before, after = (median_over_runs(each, metric=STEP_TIME_SEC.name) for each in (then.runs, runs))
    if before is None or after is None or after <= before:
        return False
    return straggler.excess_pct / 100 * before >= _MOST_OF_IT * (after - before)
