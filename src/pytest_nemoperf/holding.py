"""Which tolerances runs can hold once they are a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.comparison import Terms, costs
from pytest_nemoperf.measure import Run
from pytest_nemoperf.metrics import JUDGED, Metric
from pytest_nemoperf.sequential import cost_of_loss, is_below_floor, loss_of_cost, resolution, runs_to_resolve


def wants_more_runs(runs: Sequence[Run], *, terms: Terms) -> bool:
    """Tell whether a baseline of these runs could not hold the tolerances, which further runs would allow."""
    return any(
        runs_to_resolve(
            costs(runs, metric=metric),
            tolerance=cost_of_loss(terms.tolerances[metric.name], metric=metric),
            rule=terms.rule(metric),
        )
        for metric in JUDGED
        if unheld_text(runs, metric=metric, terms=terms)
    )


def unheld_text(runs: Sequence[Run], *, metric: Metric, terms: Terms) -> str:
    """Return why a baseline of these runs can't hold a metric's tolerance, and what would; empty if it can."""
    values, rule = costs(runs, metric=metric), terms.rule(metric)
    if not values:
        return ""
    allowed = terms.tolerances[metric.name]
    tolerance = cost_of_loss(allowed, metric=metric)
    resolved = resolution(values, rule=rule, tolerance=tolerance)
    if resolved <= tolerance:
        return ""
    needed = runs_to_resolve(values, tolerance=tolerance, rule=rule)
    remedy = f"{needed} runs would" if needed else "no number of runs would; raise it, or compare with --perf-ab"
    return (
        f"tolerance {allowed:g}% of {metric.label} is finer than the {loss_of_cost(resolved, metric=metric):.2g}% that "
        f"{len(values)} run(s) can resolve; {remedy}"
    )


def judging_metrics(runs: Sequence[Run], *, terms: Terms) -> frozenset[str]:
    """Return the names of the metrics that a baseline of these runs can pass anything in: not below the noise floor."""
    return frozenset(
        metric.name
        for metric in JUDGED
        if (values := costs(runs, metric=metric))
        and not is_below_floor(
            values,
            tolerance=cost_of_loss(terms.tolerances[metric.name], metric=metric),
            rule=terms.rule(metric),
        )
    )
