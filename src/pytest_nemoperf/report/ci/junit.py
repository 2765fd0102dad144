"""Properties of a JUnit test case, for tools that collect figures from test reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pytest_nemoperf.measure.measurement import median_over_runs
from pytest_nemoperf.records.metrics import JUDGED, RL_METRICS, WHOLE_STEP
from pytest_nemoperf.report.cells import case_value, injected_mark
from pytest_nemoperf.results.cases import CaseReport
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from pytest_nemoperf.visible import visible_text

PREFIX: Final = "nemoperf_"


def properties(report: CaseReport) -> list[tuple[str, str]]:
    """Return (name, value) of all properties of a case.

    Names are ``nemoperf_<property>`` and ``nemoperf_<metric>_<now|baseline|delta_pct|low_pct|high_pct|finds_pct|
    noise_pct|allowed_pct|verdict>``, against an anchor ``nemoperf_<metric>_anchor_<...>``; units are in the metrics'
    names, and low and high are the ends of the 95% interval of delta. Metrics that are not judged have now and baseline
    only. In a self-test the figures' names begin with ``nemoperf_injected_``, so that a tool that collects figures by
    name does not find them. An invalid case has no figures.
    """
    result = report.result
    verdict = result.verdict
    measurement = result.measurement
    baseline = report.baseline
    injected = prefix = ""
    if measurement.inject_pct > 0:
        injected = f"{measurement.inject_pct:g}"
        prefix = "injected_"
    pairs = [
        ("verdict", f"{injected_mark(measurement.inject_pct)}{verdict.kind}"),
        ("case", verdict.case),
        ("system", measurement.system),
        ("reason", "; ".join(verdict.reasons)),
        ("baseline", result.baseline_path),
        ("stored", result.stored_path),
        ("accepted_reason", result.accepted_reason),
        ("earlier_verdicts", ", ".join(result.earlier_verdicts)),
        ("waived", result.waived),
        ("waiver_note", result.waiver_note),
        ("inject_pct", injected),
        ("flops_convention", measurement.flops_convention or ""),
        ("num_runs", str(len(measurement.runs) or "")),
    ]
    if result.published is not None:
        pairs.append(("published", f"{result.published.title} {result.published.row}"))
    if baseline is not None:
        pairs.append(("num_baseline_runs", str(len(baseline.runs))))
        if baseline.anchor is not None:
            pairs.append(("anchor", baseline.anchor.name))
    if verdict.kind is not VerdictKind.INVALID:
        for name, value in (*_figures(report), *_rl_figures(report)):
            pairs.append((f"{prefix}{name}", value))
    named = []
    for name, value in pairs:
        if value:
            named.append((f"{PREFIX}{name}", visible_text(value)))
    return named


def _rl_figures(report: CaseReport) -> Iterator[tuple[str, str]]:
    """Yield the figures of reinforcement learning that are not judged."""
    sides = [("now", report.result.measurement.runs)]
    if report.result.verdict.comparisons and report.baseline is not None:
        sides.append(("baseline", report.baseline.runs))
    judged = {comparison.metric for comparison in report.result.verdict.comparisons}
    for metric in RL_METRICS:
        if metric.name in judged:
            continue
        for side, runs in sides:
            value = median_over_runs(runs, metric=metric.name)
            if value is not None:
                yield f"{metric.name}_{side}", f"{value:.6g}"


def _figures(report: CaseReport) -> Iterator[tuple[str, str]]:
    """Yield the judged metrics' figures, beside the newest baseline and then beside the anchor."""
    comparisons = sorted(report.result.verdict.comparisons, key=lambda each: bool(each.anchor))
    judged = {comparison.metric for comparison in comparisons}
    for metric in JUDGED:
        now = case_value(report.result, metric=metric.name)
        if now is None or (metric not in WHOLE_STEP and metric.name not in judged):
            continue
        yield f"{metric.name}_now", f"{now:.6g}"
        for comparison in comparisons:
            if comparison.metric == metric.name:
                yield from _comparison_figures(comparison)


def _comparison_figures(comparison: Comparison) -> Iterator[tuple[str, str]]:
    prefix = comparison.metric
    if comparison.anchor:
        prefix += "_anchor"
    yield f"{prefix}_baseline", f"{comparison.baseline:.6g}"
    yield f"{prefix}_delta_pct", f"{comparison.delta_pct:z.2f}"
    for name in ("low_pct", "high_pct", "finds_pct", "noise_pct", "side_by_side_pct"):
        percent = getattr(comparison, name)
        if percent is not None:
            yield f"{prefix}_{name}", f"{percent:z.2f}"
    yield f"{prefix}_allowed_pct", f"{comparison.allowed_pct:g}"
    yield f"{prefix}_verdict", comparison.kind.value
