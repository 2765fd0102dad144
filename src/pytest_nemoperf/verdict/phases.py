"""Phases that caused the change of a whole step, so that one cause is told once. Pure.

In reinforcement learning the rates and times of phases are judged beside tokens/sec/GPU. A slower phase makes the step
slower, unless other work overlaps with it. So for each side of the comparison (the newest baseline, an anchor):

* A changed step has a sentence, and its causes are told there: a judged phase is one if it changed too and has at
  least a tenth of the step's difference; any other phase is one if it has at least half. What is told there is not
  told again.
* A judged phase that changed while the step did not, or not because of it, has a sentence of its own.
* A wait that grew with the phase it waits for is told with that phase.

Kinds stay as they are: only what is told, and where, depends on causes. One kind changes before. A phase is noisier
than the step, so a phase without a tolerance of its own, whose noise hides losses as large as the step's tolerance,
decides nothing unless it is REGRESSED or IMPROVED.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.measure.figures import figure_over_runs, phases_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import (
    METRICS,
    STEP_TIME_SEC,
    TOKENS_PER_SEC_PER_GPU,
    format_number,
    format_time,
)
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.resolution import judging_metrics

_MIN_SHARE: Final = 0.1
_MIN_UNJUDGED_SHARE: Final = 0.5
_CHANGED: Final = frozenset({VerdictKind.REGRESSED, VerdictKind.IMPROVED})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """A phase that changed the whole step.

    Attributes:
        subject: Label of its metric, or name of the phase.
        figures: Its change, as text.
        share: Its share of the step's difference; 0 if unknown.
    """

    subject: str
    figures: str
    share: float = 0.0


def without_noisy_phases(
    comparisons: Sequence[Comparison], *, baseline: Baseline, policy: VerdictPolicy
) -> tuple[Comparison, ...]:
    """Return the comparisons; undecided phases that the baseline's runs can't judge are NOT COMPARABLE.

    Only phases that follow the tolerance of tokens/sec/GPU: one that is named is asked for.
    """
    judging = {"": judging_metrics(baseline.runs, policy=policy)}
    if baseline.anchor is not None:
        judging[baseline.anchor.name] = judging_metrics(baseline.anchor.runs, policy=policy)
    settled = []
    for each in comparisons:
        is_hopeless = each.metric not in judging[each.anchor] and policy.follows_tokens_per_sec(METRICS[each.metric])
        if each.kind is VerdictKind.INCONCLUSIVE and is_hopeless:
            note = _joined(each.note, f"it decides nothing: name a tolerance of {each.metric} to have it judged")
            settled.append(replace(each, kind=VerdictKind.NOT_COMPARABLE, note=note))
        else:
            settled.append(each)
    return tuple(settled)


def with_causes(
    comparisons: Sequence[Comparison], *, runs: Sequence[Run], baseline: Baseline
) -> tuple[Comparison, ...]:
    """Return the comparisons with the causes of changed steps; without judged phases they stay as they are.

    Args:
        comparisons: Comparisons with the newest baseline and with its anchor.
        runs: This session's runs.
        baseline: The stored baseline.
    """
    sides = {"": baseline.runs}
    if baseline.anchor is not None:
        sides[baseline.anchor.name] = baseline.anchor.runs
    told: dict[tuple[str, str], Comparison] = {}
    for anchor, then in sides.items():
        own = [each for each in comparisons if each.anchor == anchor]
        if any(METRICS[each.metric].phases for each in own):
            for each in _tell_side(own, now=runs, then=then):
                told[each.anchor, each.metric] = each
    return tuple(told.get((each.anchor, each.metric), each) for each in comparisons)


def _tell_side(comparisons: Sequence[Comparison], *, now: Sequence[Run], then: Sequence[Run]) -> list[Comparison]:
    """Return the comparisons with one side, told once for each cause."""
    whole = None
    phases: list[Comparison] = []
    others: list[Comparison] = []
    for each in _with_waits_folded(comparisons):
        if METRICS[each.metric].phases and each.kind in _CHANGED:
            phases.append(each)
        elif each.metric == TOKENS_PER_SEC_PER_GPU.name:
            whole = each
        else:
            others.append(each)
    if whole is None:
        return [*phases, *others]
    causes = []
    told = []
    shares = _shares(now, then=then)
    is_told = whole.kind in _CHANGED and whole.slow_steps_loss_pct is None  # the medians of phases hide slow steps too
    for each in phases:
        share = _share_of(each, shares=shares)
        if each.told_with:
            told.append(each)
        elif is_told and each.kind is whole.kind and (share is None or share >= _MIN_SHARE):
            causes.append(_Cause(subject=METRICS[each.metric].label, figures=_figures(each), share=share or 0.0))
            told.append(replace(each, told_with=whole.metric))
        else:
            told.append(replace(each, note=_joined(each.note, _whole_note(whole, phase=each))))
    if is_told:
        known = _phases_of([each for each in told if each.told_with == whole.metric])
        causes += _unjudged_causes(shares, known=known, now=now, then=then)
    return [replace(whole, cause=_cause_text(causes)), *told, *others]


def _with_waits_folded(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return the comparisons; a changed phase that is a part of another changed one is told with that."""
    changed = [each for each in comparisons if each.kind in _CHANGED and METRICS[each.metric].phases]
    parts: dict[str, list[Comparison]] = {}
    told_with: dict[str, str] = {}
    for part in changed:
        for whole in changed:
            is_part = set(METRICS[part.metric].phases) < set(METRICS[whole.metric].phases)
            if is_part and part.kind is whole.kind and part.metric not in told_with:
                told_with[part.metric] = whole.metric
                parts.setdefault(whole.metric, []).append(part)
    folded = []
    for each in comparisons:
        note = each.note
        for part in parts.get(each.metric, []):
            note = _joined(note, f"{METRICS[part.metric].label} {_delta_text(part)} with it")
        folded.append(replace(each, note=note, told_with=told_with.get(each.metric, "")))
    return folded


def _shares(now: Sequence[Run], *, then: Sequence[Run]) -> dict[str, float]:
    """Return each phase's share of the step's difference, on the slowest training rank; empty if unknown."""
    before = phases_over_runs(then)
    after = phases_over_runs(now)
    step_before = figure_over_runs(then, metric=STEP_TIME_SEC.name)
    step_after = figure_over_runs(now, metric=STEP_TIME_SEC.name)
    if not before or not after or not step_before or not step_after or step_before == step_after:
        return {}
    shares = {}
    for name in {**before, **after}:
        shares[name] = (after.get(name, 0.0) - before.get(name, 0.0)) / (step_after - step_before)
    return shares


def _share_of(comparison: Comparison, *, shares: Mapping[str, float]) -> float | None:
    """Return a judged phase's share of the step's difference; None if unknown."""
    if not shares:
        return None
    return sum(shares.get(name, 0.0) for name in METRICS[comparison.metric].phases)


def _phases_of(comparisons: Sequence[Comparison]) -> set[str]:
    names: set[str] = set()
    for each in comparisons:
        names.update(METRICS[each.metric].phases)
    return names


def _unjudged_causes(
    shares: Mapping[str, float], *, known: set[str], now: Sequence[Run], then: Sequence[Run]
) -> list[_Cause]:
    """Return the phase with most of the step's difference, unless a judged phase is known for it."""
    causes = []
    for name, share in shares.items():
        if share >= _MIN_UNJUDGED_SHARE and name not in known:
            before = phases_over_runs(then).get(name, 0.0)
            after = phases_over_runs(now).get(name, 0.0)
            figures = f"{format_time(before)} -> {format_time(after)} of a step"
            causes.append(_Cause(subject=name, figures=figures, share=share))
    return causes


def _cause_text(causes: Sequence[_Cause]) -> str:
    """Return the causes as a sentence, the largest first; empty without one."""
    if not causes:
        return ""
    ordered = sorted(causes, key=lambda cause: -cause.share)
    *first, last = [cause.subject for cause in ordered]
    subjects = last
    if first:
        subjects = f"{', '.join(first)} and {last}"
    verb = "are" if first or last.endswith("s") else "is"
    return f"{subjects} {verb} the cause: {', '.join(cause.figures for cause in ordered)}"


def _figures(comparison: Comparison) -> str:
    """Return a judged phase's change: ``4,120 -> 3,300 tokens/sec/GPU of generation, -19.9%``."""
    metric = METRICS[comparison.metric]
    if metric.unit == "s":
        values = f"{format_time(comparison.baseline)} -> {format_time(comparison.now)}"
    else:
        values = f"{format_number(comparison.baseline)} -> {metric.format(comparison.now)}"
    return f"{values} of {metric.label} ({_delta_text(comparison)})"


def _whole_note(whole: Comparison, *, phase: Comparison) -> str:
    """Return a note on the whole step, for a phase that did not cause its change."""
    label = METRICS[whole.metric].label
    if whole.kind is phase.kind:
        return f"the change of {label} has another cause"
    return f"the whole step is {whole.kind}: {label} {_delta_text(whole)}"


def _delta_text(comparison: Comparison) -> str:
    return f"{comparison.delta_pct:+z.1f}%"


def _joined(*texts: str) -> str:
    return "; ".join(filter(None, texts))
