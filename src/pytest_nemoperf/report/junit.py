"""Properties of a JUnit test case, for tools that collect figures from test reports."""

from __future__ import annotations

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.measure import median_over_runs
from pytest_nemoperf.metrics import JUDGED, RL_METRICS
from pytest_nemoperf.results import CaseReport


def properties(report: CaseReport) -> list[tuple[str, str]]:
    """Return (name, value) of all properties of a case.

    Names are ``nemoperf_<what>`` and ``nemoperf_<metric>_<now|baseline|delta_pct|allowed_pct|verdict>``; units are
    in the metrics' names. What is not judged has now and baseline alone. In a self-test the verdict says so and the
    figures' names begin with ``nemoperf_injected_``, so that a tool that collects them by name never meets one. An
    invalid case has none.
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
        ("waived", result.waived),
        ("waiver_note", result.waiver_note),
        ("inject_pct", f"{measurement.inject_pct:g}" if is_injected else ""),
        ("flops_convention", measurement.flops_convention or ""),
    ]
    if verdict.kind is not VerdictKind.INVALID:
        prefix = "injected_" if is_injected else ""
        pairs += [(prefix + name, value) for name, value in (*_figures(report), *_shown_figures(report))]
    return [(f"nemoperf_{name}", value) for name, value in pairs if value]


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
    comparisons = {comparison.metric: comparison for comparison in report.result.verdict.comparisons}
    pairs = []
    for metric in JUDGED:
        now = median_over_runs(report.result.measurement.runs, metric=metric.name)
        if now is None:
            continue
        pairs.append((f"{metric.name}_now", f"{now:.6g}"))
        comparison = comparisons.get(metric.name)
        if comparison is not None:
            pairs += [
                (f"{metric.name}_baseline", f"{comparison.baseline:.6g}"),
                (f"{metric.name}_delta_pct", f"{comparison.delta_pct:.2f}"),
                (f"{metric.name}_allowed_pct", f"{comparison.allowed_pct:g}"),
                (f"{metric.name}_verdict", comparison.kind.value),
            ]
    return pairs
