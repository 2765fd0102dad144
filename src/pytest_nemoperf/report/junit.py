"""Properties of a JUnit test case, for tools that collect figures from test reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_nemoperf.comparison import Comparison, VerdictKind
from pytest_nemoperf.measure import median_over_runs
from pytest_nemoperf.metrics import JUDGED, RL_METRICS
from pytest_nemoperf.results import CaseReport

PREFIX: Final = "nemoperf_"


def properties(report: CaseReport) -> list[tuple[str, str]]:
    """Return (name, value) of all properties of a case.

    Names are ``nemoperf_<what>`` and ``nemoperf_<metric>_<now|baseline|delta_pct|low_pct|high_pct|resolution_pct|
    noise_pct|allowed_pct|verdict>``, against an anchor ``nemoperf_<metric>_anchor_<...>``; units are in the metrics'
    names, and low and high end the 95% interval of delta. What is not judged has now and baseline alone. In a self-test
    the verdict says so and the figures' names begin with ``nemoperf_injected_``, so that a tool that collects them by
    name never meets one. An invalid case has none.
    """
    result = report.result
    verdict, measurement = result.verdict, result.measurement
    is_injected = measurement.inject_pct > 0
    pairs = [
        ("verdict", f"INJECTED {verdict.kind}" if is_injected else verdict.kind.value),
        ("case", verdict.case),
        ("system", measurement.system),
        ("reason", "; ".join(verdict.reasons)),
        ("baseline", result.baseline_path),
        ("stored", result.stored_path),
        ("accepted_reason", result.accepted_reason),
        ("earlier_verdicts", ", ".join(result.earlier_verdicts)),
        ("waived", result.waived),
        ("waiver_note", result.waiver_note),
        ("inject_pct", f"{measurement.inject_pct:g}" if is_injected else ""),
        ("flops_convention", measurement.flops_convention or ""),
        ("num_runs", str(len(measurement.runs) or "")),
        ("num_baseline_runs", str(len(report.baseline.runs)) if report.baseline is not None else ""),
        ("anchor", report.baseline.anchor.name if report.baseline is not None and report.baseline.anchor else ""),
    ]
    if verdict.kind is not VerdictKind.INVALID:
        prefix = "injected_" if is_injected else ""
        pairs += [(prefix + name, value) for name, value in (*_figures(report), *_shown_figures(report))]
    return [(f"{PREFIX}{name}", value) for name, value in pairs if value]


def _shown_figures(report: CaseReport) -> list[tuple[str, str]]:
    """Figures of reinforcement learning, which no verdict rests on."""
    sides = [("now", report.result.measurement.runs)]
    if report.result.verdict.comparisons and report.baseline is not None:
        sides.append(("baseline", report.baseline.runs))
    medians = [
        (f"{metric.name}_{side}", median_over_runs(runs, metric=metric.name))
        for metric in RL_METRICS
        for side, runs in sides
    ]
    return [(name, f"{value:.6g}") for name, value in medians if value is not None]


def _figures(report: CaseReport) -> list[tuple[str, str]]:
    judged = report.result.verdict.comparisons
    newest = {comparison.metric: comparison for comparison in judged if not comparison.anchor}
    anchored = {comparison.metric: comparison for comparison in judged if comparison.anchor}
    pairs = []
    for metric in JUDGED:
        now = median_over_runs(report.result.measurement.runs, metric=metric.name)
        if now is None:
            continue
        pairs.append((f"{metric.name}_now", f"{newest[metric.name].now if metric.name in newest else now:.6g}"))
        for prefix, comparisons in ((metric.name, newest), (f"{metric.name}_anchor", anchored)):
            if metric.name in comparisons:
                pairs += [(f"{prefix}_{name}", value) for name, value in _comparison_pairs(comparisons[metric.name])]
    return pairs


def _comparison_pairs(comparison: Comparison) -> Iterator[tuple[str, str]]:
    yield "baseline", f"{comparison.baseline:.6g}"
    yield "delta_pct", f"{comparison.delta_pct:z.2f}"
    for name in ("low_pct", "high_pct", "resolution_pct", "noise_pct"):
        percent = getattr(comparison, name)
        if percent is not None:
            yield name, f"{percent:z.2f}"
    yield "allowed_pct", f"{comparison.allowed_pct:g}"
    yield "verdict", comparison.kind.value
