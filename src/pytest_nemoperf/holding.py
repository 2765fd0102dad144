"""Which tolerances runs can hold once they are a baseline."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.comparison import Terms, costs
from pytest_nemoperf.distinct import distinct_metrics
from pytest_nemoperf.measure import Run
from pytest_nemoperf.metrics import JUDGED, Metric
from pytest_nemoperf.remarks import finer
from pytest_nemoperf.sequential import Evidence, cost_of_loss, decide, runs_needed


def wants_more_runs(runs: Sequence[Run], *, terms: Terms) -> bool:
    """Tell whether a baseline of these runs could not hold the tolerances, which further runs would allow."""
    return any(
        _needed(runs, metric=metric, terms=terms)[1]
        for metric in JUDGED
        if unheld_text(runs, metric=metric, terms=terms)
    )


def runs_to_judge(runs: Sequence[Run], *, terms: Terms) -> int | None:
    """Return how many runs let every metric's tolerance be judged, as far as these tell; None if too many would."""
    counts = [_needed(runs, metric=metric, terms=terms)[0] for metric in JUDGED if costs(runs, metric=metric)]
    known = [count for count in counts if count is not None]
    return max(known) if known and len(known) == len(counts) else None


def unheld_text(runs: Sequence[Run], *, metric: Metric, terms: Terms) -> str:
    """Return why a baseline of these runs can't hold a metric's tolerance, and what would; empty if it can."""
    allowed, rule = terms.tolerances[metric.name], terms.rule(metric, runs=runs)
    evidence = by_itself(runs, metric=metric, terms=terms)
    if evidence is None:
        return ""
    return finer(costs(runs, metric=metric), evidence=evidence, allowed_pct=allowed, metric=metric, rule=rule)


def unheld_texts(runs: Sequence[Run], *, terms: Terms) -> list[str]:
    """Return unheld_text of each metric that says something of its own."""
    texts = (unheld_text(runs, metric=metric, terms=terms) for metric in distinct_metrics(runs, terms=terms))
    return [text for text in texts if text]


def judging_metrics(runs: Sequence[Run], *, terms: Terms) -> frozenset[str]:
    """Return the names of the metrics that a baseline of these runs can pass anything in: not below the noise floor."""
    return frozenset(
        metric.name
        for metric in JUDGED
        if (evidence := by_itself(runs, metric=metric, terms=terms)) is not None and not evidence.is_refused
    )


def by_itself(runs: Sequence[Run], *, metric: Metric, terms: Terms) -> Evidence | None:
    """Return what runs say of a metric beside themselves, for its noise and resolution; None if they don't have it."""
    values, rule = costs(runs, metric=metric), terms.rule(metric, runs=runs)
    tolerance = cost_of_loss(terms.tolerances[metric.name], metric=metric)
    return decide(values, values[: rule.max_runs], tolerance=tolerance, rule=rule) if values else None


def _needed(runs: Sequence[Run], *, metric: Metric, terms: Terms) -> tuple[int | None, int | None]:
    tolerance = cost_of_loss(terms.tolerances[metric.name], metric=metric)
    return runs_needed(costs(runs, metric=metric), tolerance=tolerance, rule=terms.rule(metric, runs=runs))
