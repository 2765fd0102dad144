"""Verdict on a case that a stored baseline could not clear, once it was compared side by side. Pure.

A stored baseline can't know how fast the machine is today. Rounds of the working tree beside the baseline's own commit,
here and now, tell the code's part of a change; what is left came with the environment or the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import BESIDE_STEPS, METRICS, PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU, Direction
from pytest_nemoperf.verdict.advice import session_note
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind, delta_pct, describe
from pytest_nemoperf.verdict.judge import Verdict, overall_kind
from pytest_nemoperf.verdict.repeated_metrics import distinct_comparisons

SUSPECT: Final = frozenset({VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE})
"""Verdicts of a stored baseline that a comparison side by side may change."""
_DECIDING: Final = frozenset(
    {VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE, VerdictKind.PASSED, VerdictKind.IMPROVED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOutcome:
    """Outcome of comparing a suspect with the commit of its baseline, or of that baseline's anchor.

    Attributes:
        anchor: Name of the anchor whose commit it was; empty for the newest baseline.
        commit: Short hash of that commit; empty if none is named.
        recorded: Date of the stored runs.
        verdict: Verdict of the rounds; None if there were none.
        num_rounds: Rounds that counted.
        is_same_code: The working tree and the recipe are those of the stored runs, so that no rounds are needed.
        differences: Changes of the environment since the stored runs that may change speed.
        problem: Reason that there were no rounds; empty if there were, or if none are needed.
        yardstick: Sentence on the speed of the machine; may be empty.
    """

    anchor: str
    commit: str
    recorded: str
    verdict: Verdict | None = None
    num_rounds: int = 0
    is_same_code: bool = False
    differences: tuple[str, ...] = ()
    problem: str = ""
    yardstick: str = ""


def suspect_sides(verdict: Verdict) -> list[str]:
    """Return the sides of a verdict that a comparison side by side may clear: anchors' names, empty for the newest."""
    sides: list[str] = []
    for each in verdict.comparisons:
        if each.kind in SUSPECT and each.anchor not in sides:
            sides.append(each.anchor)
    return sides


def has_loss(verdict: Verdict) -> bool:
    """Return whether a suspect metric is worse than is allowed, or a suspect for its slow steps."""
    return any(each.kind in SUSPECT and _is_loss(each) for each in verdict.comparisons)


def confirmed(verdict: Verdict, *, outcome: SideOutcome, fails_on_machine: bool = False) -> Verdict:
    """Return a verdict with the outcome of comparing one of its sides.

    Args:
        verdict: Verdict of the stored baseline, maybe with the outcome of another side.
        outcome: The outcome.
        fails_on_machine: A loss of unchanged code in an unchanged environment is REGRESSED.
    """
    if outcome.problem:
        reason = f"not compared side by side: {outcome.problem}"
        return replace(verdict, reasons=(*verdict.reasons, *filter(None, [reason, outcome.yardstick])))
    if outcome.is_same_code:
        return _of_same_code(verdict, outcome=outcome, fails_on_machine=fails_on_machine)
    rounds = outcome.verdict
    if rounds is None:
        return verdict
    if rounds.kind not in _DECIDING:
        reason = f"side by side with {outcome.commit} nothing could be compared"
        return replace(verdict, reasons=(*verdict.reasons, reason, *rounds.reasons))
    compared = {each.metric: each for each in rounds.comparisons}
    comparisons = []
    for each in verdict.comparisons:
        if each.anchor == outcome.anchor:
            beside = compared.get(each.metric)
            comparisons.append(_beside(each, beside=beside, outcome=outcome))
        else:
            comparisons.append(each)
    kept = _without_those_of(verdict, anchor=outcome.anchor)
    reasons = _reasons(verdict, kinds=comparisons, rounds=rounds, outcome=outcome)
    return replace(verdict, kind=overall_kind(comparisons), comparisons=tuple(comparisons), reasons=(*reasons, *kept))


def is_left_to_stored_evidence(verdict: Verdict, *, outcome: SideOutcome) -> bool:
    """Return whether a loss of a side rests on the stored runs alone: no rounds, or another environment.

    Args:
        verdict: Verdict with the outcome of the side.
        outcome: The outcome.
    """
    if outcome.verdict is not None and outcome.verdict.kind in _DECIDING and not outcome.differences:
        return False
    if outcome.is_same_code and not outcome.differences:
        return False
    return any(each.kind in SUSPECT and each.anchor == outcome.anchor for each in verdict.comparisons)


def _of_same_code(verdict: Verdict, *, outcome: SideOutcome, fails_on_machine: bool) -> Verdict:
    """Return the verdict on the very code of the stored runs: a loss is of the machine, or of its environment."""
    comparisons = []
    slower = []
    for each in verdict.comparisons:
        if each.anchor != outcome.anchor or each.kind not in SUSPECT:
            comparisons.append(each)
            continue
        kind = VerdictKind.PASSED
        if _is_loss(each):
            slower.append(each)
            if outcome.differences:
                kind = each.kind  # the stored evidence says whether it is beyond days and noise
            else:
                kind = VerdictKind.REGRESSED if fails_on_machine else VerdictKind.INCONCLUSIVE
        comparisons.append(_with_kind(each, kind=kind))
    same = f"the code is that of {outcome.recorded} ({outcome.commit})"
    if outcome.differences:
        cause = f"{same}, so the loss came with {', '.join(outcome.differences)}, or with the machine"
    else:
        cause = f"{same}, and so are environment and recipe: the machine is slower, or something that is not recorded"
    reasons = [f"{describe(each)}; {cause}" for each in distinct_comparisons(slower)]
    if slower:
        reasons += filter(None, [outcome.yardstick])
    kept = _without_those_of(verdict, anchor=outcome.anchor)
    return replace(verdict, kind=overall_kind(comparisons), comparisons=tuple(comparisons), reasons=(*reasons, *kept))


def _beside(each: Comparison, *, beside: Comparison | None, outcome: SideOutcome) -> Comparison:
    """Return a stored comparison with the outcome of its metric in the rounds.

    Args:
        each: The comparison with the stored runs.
        beside: The same metric side by side; None if the rounds don't have it.
        outcome: The outcome, for the environment.
    """
    if beside is None and METRICS[each.metric] in BESIDE_STEPS:
        return each  # rounds never have it, so the stored evidence stands
    if beside is None:
        kind = VerdictKind.INCONCLUSIVE if each.kind is VerdictKind.REGRESSED else each.kind
        return _with_kind(each, kind=kind)
    compared = _with_kind(each, kind=_kind_beside(each, decided=beside.kind, outcome=outcome))
    if beside.kind is VerdictKind.NOT_COMPARABLE:
        return compared
    return replace(compared, side_by_side_pct=beside.delta_pct)


def _kind_beside(each: Comparison, *, decided: VerdictKind, outcome: SideOutcome) -> VerdictKind:
    """Return the kind of a stored comparison, given the kind of its metric side by side."""
    if decided is VerdictKind.REGRESSED:
        return decided
    if each.kind not in SUSPECT:
        return each.kind
    if decided in {VerdictKind.INCONCLUSIVE, VerdictKind.NOT_COMPARABLE}:
        return decided
    if outcome.differences and _is_loss(each):
        return each.kind  # a loss that is not the code's: the stored evidence says whether beyond days and noise
    return VerdictKind.PASSED


def _with_kind(each: Comparison, *, kind: VerdictKind) -> Comparison:
    if kind is each.kind:
        return each
    return replace(each, kind=kind, slow_steps_loss_pct=None)


def _without_those_of(verdict: Verdict, *, anchor: str) -> list[str]:
    """Return the reasons of a verdict but those on suspects of one side."""
    told = set()
    for each in verdict.comparisons:
        if each.anchor == anchor:
            told |= {describe(each), session_note(each)}
    return [reason for reason in verdict.reasons if reason not in told]


def _reasons(verdict: Verdict, *, kinds: Sequence[Comparison], rounds: Verdict, outcome: SideOutcome) -> list[str]:
    """Return the sentences on a suspect that was compared: both figures, then those of the rounds.

    Args:
        verdict: Verdict of the stored baseline.
        kinds: Comparisons with what the rounds made of them.
        rounds: Verdict of the rounds.
        outcome: The outcome.
    """
    reasons = [_summary(verdict, rounds=rounds, outcome=outcome)]
    left = [each for each in kinds if each.anchor == outcome.anchor and each.kind in SUSPECT]
    if rounds.kind in SUSPECT:
        reasons += rounds.reasons
    elif left and outcome.differences:
        reasons.append(_on_environment(overall_kind(left)))
    reasons += filter(None, [outcome.yardstick])
    return reasons


def _summary(verdict: Verdict, *, rounds: Verdict, outcome: SideOutcome) -> str:
    """Return e.g. ``stored baseline -8.1%; side by side with 1a2b3c4, 4 rounds: -0.3% (-0.9 to +0.3): the machine``."""
    stored = _main(verdict.comparisons, anchor=outcome.anchor)
    beside = None
    for each in rounds.comparisons:
        if stored is not None and each.metric == stored.metric:
            beside = each
    if stored is None or beside is None:
        return f"compared side by side with {outcome.commit}"
    name = f"anchor {outcome.anchor}" if outcome.anchor else "stored baseline"
    interval = f"{beside.low_pct:+.1f} to {beside.high_pct:+.1f}"
    text = (
        f"{METRICS[stored.metric].label}: {name} {stored.delta_pct:+.1f}%; side by side with {outcome.commit}, "
        f"{count_text(outcome.num_rounds, 'round')}: {beside.delta_pct:+.1f}% ({interval})"
    )
    if stored.cause:
        text = f"{stored.cause}; {text}"
    rest_pct = delta_pct(stored.worsening - beside.worsening, metric=METRICS[stored.metric])
    if outcome.differences:
        changes = ", ".join(outcome.differences)
        code = f"code {beside.delta_pct:+.1f}%"
        return f"{text}: {code}; the rest, {rest_pct:+.1f}%, came with {changes} or with the machine"
    return f"{text}{_machine_text(stored, rest_pct=rest_pct, recorded=outcome.recorded)}"


def _machine_text(stored: Comparison, *, rest_pct: float, recorded: str) -> str:
    """Return the part of a change that is not the code's, as the machine's; empty for peak memory."""
    if stored.metric == PEAK_MEMORY_GIB.name:
        return ""
    is_slower = (rest_pct < 0) is (METRICS[stored.metric].direction is Direction.HIGHER)
    if abs(rest_pct) < 1.0:
        return ": the machine is as fast as when it was recorded"
    word = "slower" if is_slower else "faster"
    return f": the machine is {abs(rest_pct):.0f}% {word} than when it was recorded ({recorded})"


def _on_environment(kind: VerdictKind) -> str:
    """Return a sentence on a loss that is not the code's, and came with a changed environment or the machine."""
    tell = "an interpreter with the old versions, or perf_ab_setup that installs them on one side, would tell"
    if kind is VerdictKind.REGRESSED:
        return f"the code's part is allowed, and the rest is more than days and noise explain; {tell} what it was"
    return f"the code's part is allowed, and days and noise may explain the rest; {tell}"


def worst_suspect(comparisons: Sequence[Comparison], *, anchor: str) -> Comparison | None:
    """Return the suspect that speaks for a side: a regressed metric, else an undecided one; None without any."""
    for kind in (VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE):
        for each in comparisons:
            if each.kind is kind and each.anchor == anchor:
                return each
    return None


def _main(comparisons: Sequence[Comparison], *, anchor: str) -> Comparison | None:
    """Return the comparison that speaks for a side: the worst suspect, else of tokens/s, else the first."""
    suspect = worst_suspect(comparisons, anchor=anchor)
    if suspect is not None:
        return suspect
    own = [each for each in comparisons if each.anchor == anchor]
    for each in own:
        if each.metric == TOKENS_PER_SEC_PER_GPU.name:
            return each
    return own[0] if own else None


def _is_loss(each: Comparison) -> bool:
    """Return whether a metric is worse than is allowed, by its median or by slow steps."""
    loss_pct = METRICS[each.metric].worsening_pct(each.now, baseline=each.baseline)
    return loss_pct > each.allowed_pct or each.slow_steps_loss_pct is not None
