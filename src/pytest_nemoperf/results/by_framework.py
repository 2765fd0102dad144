"""Cases of a session grouped by recipe, to set frameworks beside each other."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.measure.figures import figure_of, figure_over_runs
from pytest_nemoperf.measure.measurement import Run, round_significant, workload_of
from pytest_nemoperf.recipes.other_framework import without_framework
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.results.cases import CaseResult
from pytest_nemoperf.results.framework_figures import (
    COMPARED,
    FigureRange,
    FrameworkComparison,
    FrameworkFigures,
    LossBeside,
)
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import LOSS_REL_TOL, is_same_loss, losses_by_step

_OWN_KEYS = frozenset({"framework", "framework_options"})
"""Keys of a workload that say nothing of the model, the batch or the layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmeasured:
    """A case without figures.

    Attributes:
        nodeid: Test that asked for it.
        plan: Plan of the case.
        reason: Reason that it has none.
    """

    nodeid: str
    plan: Plan
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A case of one framework, judged or without figures."""

    plan: Plan
    nodeid: str
    verdict: VerdictKind | None = None
    runs: Sequence[Run] = ()
    problem: str = ""

    @property
    def framework(self) -> str:
        return self.plan.framework


def compare_frameworks(
    cases: Sequence[CaseResult], *, unmeasured: Sequence[Unmeasured] = (), order: Sequence[str] = ()
) -> tuple[FrameworkComparison, ...]:
    """Return the recipes that at least two frameworks were asked to run, and at least one has run.

    Cases belong to one recipe if model, batch, layout, precision, seed and variant are equal; interpreter, environment
    and framework_options may differ. Left out are programs (framework ``command``) and recipe files of frameworks, for
    nothing says that they do the same, and comparisons of two revisions.

    Args:
        cases: Judged cases in the order they ran.
        unmeasured: Cases without figures; those that are judged after all don't count.
        order: Frameworks, the first one first; others follow in the order they ran.
    """
    judged = {case.verdict.case for case in cases}
    entries = list(_entries_of(cases))
    for each in unmeasured:
        if each.plan.case not in judged and _is_comparable(each.plan):
            entries.append(_Entry(plan=each.plan, nodeid=each.nodeid, problem=each.reason))
    recipes: dict[tuple[str, str], list[_Entry]] = {}
    for entry in entries:
        recipes.setdefault(_recipe_of(entry.plan), []).append(entry)
    comparisons = []
    for (name, _), own in recipes.items():
        own.sort(key=lambda entry: order.index(entry.framework) if entry.framework in order else len(order))
        references = [entry for entry in own if entry.runs]
        if len(own) > 1 and references:
            comparisons.append(_comparison(name, entries=own, reference=references[0]))
    return tuple(comparisons)


def _entries_of(cases: Sequence[CaseResult]) -> Iterator[_Entry]:
    for case in cases:
        plan = case.plan
        if plan is None or case.ab is not None or not _is_comparable(plan):
            continue
        verdict = case.verdict
        if verdict.kind is VerdictKind.INVALID:
            problem = f"{verdict.kind}: {'; '.join(verdict.reasons)}"
            yield _Entry(plan=plan, nodeid=case.nodeid, verdict=verdict.kind, problem=problem)
        else:
            yield _Entry(plan=plan, nodeid=case.nodeid, verdict=verdict.kind, runs=case.measurement.runs)


def _is_comparable(plan: Plan) -> bool:
    return not (plan.framework_config or plan.command)


def _recipe_of(plan: Plan) -> tuple[str, str]:
    """Return the name of a recipe without its framework, and all that two frameworks must have equal, as text."""
    workload = {key: value for key, value in workload_of(plan).items() if key not in _OWN_KEYS}
    equal = {"workload": workload, "flops_convention": plan.flops_convention, "inject_pct": plan.inject_pct}
    return without_framework(plan.case), to_json_line(equal)


def _comparison(name: str, *, entries: Sequence[_Entry], reference: _Entry) -> FrameworkComparison:
    first = entries[0]
    notes: list[str] = []
    if reference is not first:
        notes.append(f"{first.framework} has no figures, so the ratios are to {reference.framework}")
    rows = []
    for entry in entries:
        row = _figures(entry)
        if entry.runs:
            row = replace(row, ratio=_ratio(entry, reference=reference))
        if entry.runs and entry is not reference:
            row = replace(row, loss=_loss_beside(entry, reference=reference))
            notes += _notes(entry, row=row, reference=reference)
        rows.append(row)
    return FrameworkComparison(recipe=name, reference=reference.framework, rows=tuple(rows), notes=tuple(notes))


def _figures(entry: _Entry) -> FrameworkFigures:
    metrics = {}
    for metric in COMPARED:
        values = _values(entry.runs, metric=metric.name)
        figure = figure_of(values, metric=metric)
        if figure is not None:
            metrics[metric.name] = FigureRange(low=min(values), figure=round_significant(figure), high=max(values))
    spread_pct = None
    rates = _values(entry.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    if len(rates) > 1:
        spread_pct = round_significant(100.0 * (max(rates) - min(rates)) / statistics.median(rates), digits=3)
    return FrameworkFigures(
        framework=entry.framework,
        case=entry.plan.case,
        nodeid=entry.nodeid,
        verdict=entry.verdict,
        problem=entry.problem,
        num_runs=len(entry.runs),
        metrics=metrics,
        spread_pct=spread_pct,
    )


def _values(runs: Sequence[Run], *, metric: str) -> list[float]:
    return [run.metrics[metric] for run in runs if metric in run.metrics]


def _ratio(entry: _Entry, *, reference: _Entry) -> float | None:
    rate = figure_over_runs(entry.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    other = figure_over_runs(reference.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    if rate is None or other is None:
        return None
    return round_significant(rate / other)


def _loss_beside(entry: _Entry, *, reference: _Entry) -> LossBeside | None:
    """Return the losses at the last step that both have; None in reinforcement learning.

    Its losses are near zero by construction, and depend on the sampled tokens. Launches may end at different steps,
    for later ones run fewer within the budget.
    """
    if entry.plan.rl is not None:
        return None
    losses = losses_by_step(entry.runs)
    others = losses_by_step(reference.runs)
    common = [step for step in losses if step in others]
    if not common:
        return None
    step = max(common, key=lambda index: -1 if index is None else index)
    loss = statistics.median(losses[step])
    other = statistics.median(others[step])
    change_pct = 0.0
    if other:
        change_pct = round_significant(100.0 * (loss - other) / abs(other), digits=3)
    return LossBeside(step=step, loss=loss, reference=other, change_pct=change_pct)


def _notes(entry: _Entry, *, row: FrameworkFigures, reference: _Entry) -> Iterator[str]:
    """Yield cautions on a framework's figures beside the reference's."""
    name = entry.framework
    other = reference.framework
    loss = row.loss
    if loss is not None and not is_same_loss(loss.loss, expected=loss.reference):
        yield (
            f"{name}: loss {loss.loss:g} at step {loss.step} is not that of {other}, {loss.reference:g} (more than "
            f"{LOSS_REL_TOL:.0%} apart): the two may train different things, and then its speed says nothing"
        )
    if loss is None and entry.plan.rl is None:
        yield f"{name}: no loss at a step of {other}, so nothing shows that both train the same"
    rates = _values(entry.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    others = _values(reference.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    if not rates or not others:
        return
    if min(len(rates), len(others)) == 1:
        yield f"{name} beside {other}: one of them has a single launch, which shows no spread; --perf-runs=5 shows it"
    elif min(rates) <= max(others) and min(others) <= max(rates):
        yield f"{name} beside {other}: the ranges of their launches overlap, so these do not tell the faster one"
