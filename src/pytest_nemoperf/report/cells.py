"""Text of values: times, bytes, percentages, figures of a case, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import (
    METRICS,
    TOKENS_PER_SEC_PER_GPU,
    WHOLE_STEP,
    Direction,
    format_number,
)
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.results.cases import CaseResult
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind

_SEC_PER_MIN = 60
_TWO_DIGITS_FROM = 10
_LEAST_PERCENT = 1e-6
_ELLIPSIS = "..."
_BYTE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
_FLOP_UNITS = ((10**15, "PFLOP"), (10**12, "TFLOP"), (10**9, "GFLOP"), (10**6, "MFLOP"))
INJECTION_MEANING = "A self-test: none of these figures is real, none is stored as a baseline."


def elapsed_text(seconds: float) -> str:
    """Return a duration to the second: ``45 s``, ``2 min 05 s``."""
    whole = round(seconds)
    if whole < _SEC_PER_MIN:
        return f"{whole} s"
    return f"{whole // _SEC_PER_MIN} min {whole % _SEC_PER_MIN:02d} s"


def bytes_text(count: float) -> str:
    """Return bytes in the largest binary unit that leaves a whole digit: ``35.1 GiB``."""
    return _with_unit(count, units=_BYTE_UNITS, smallest="B")


def flops_text(count: float) -> str:
    """Return floating-point operations in the largest unit that leaves a whole digit: ``1.5 TFLOP``."""
    return _with_unit(count, units=_FLOP_UNITS, smallest="FLOP")


def _with_unit(count: float, *, units: Sequence[tuple[int, str]], smallest: str) -> str:
    for size, unit in units:
        if count >= size:
            return f"{format_number(count / size)} {unit}"
    return f"{format_number(count)} {smallest}"


def signed_percent(value: float) -> str:
    """Return a signed percentage with one decimal; ``0.0%`` without a sign."""
    text = f"{value:+.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def change_text(delta_pct: float, *, metric: str) -> str:
    """Return a change with a word for it: ``-6.2% (slower)``, ``+50.0% (larger)``, ``0.0%``."""
    text = signed_percent(delta_pct)
    word = METRICS[metric].change_word(delta_pct)
    return f"{text} ({word})" if word else text


def percent(value: float | None) -> str:
    """Return a percentage without a sign, two significant digits: ``0.31%``, ``1.1%``, ``12%``; a dash for None."""
    if value is None:
        return "-"
    if value >= _TWO_DIGITS_FROM:
        return f"{value:.0f}%"
    if value < _LEAST_PERCENT:  # what rounding leaves of equal values
        return "0%"
    return f"{value:.2g}%"


def allowed_text(comparison: Comparison) -> str:
    """Return the allowed worsening, signed: negative for a metric of which more is better."""
    worse = -1 if METRICS[comparison.metric].direction is Direction.HIGHER else 1
    return signed_percent(worse * comparison.allowed_pct)


def side_by_side_text(comparison: Comparison) -> str:
    """Return the change beside the baseline's commit in brackets: `` (side by side -0.3%)``; empty if not compared."""
    if comparison.side_by_side_pct is None:
        return ""
    return f" (side by side {signed_percent(comparison.side_by_side_pct)})"


def metric_text(comparison: Comparison) -> str:
    """Return the metric and the anchor, if one: ``tokens/sec/GPU``, ``tokens/sec/GPU (anchor 25.09)``."""
    label = METRICS[comparison.metric].label
    if comparison.anchor:
        label += f" (anchor {comparison.anchor})"
    return label


def comparison_word(comparison: Comparison) -> str:
    """Return a comparison's kind as tables show it; its place in the cause if it is told with another one.

    So each cause is marked once: ``REGRESSED`` is the step, ``its cause`` the phase that made it so, and ``its effect``
    the wait for that phase.
    """
    if not comparison.told_with:
        return comparison.kind.value
    return "its cause" if comparison.told_with == TOKENS_PER_SEC_PER_GPU.name else "its effect"


def terms_text(tolerances: Mapping[str, float], *, finds: Mapping[str, float]) -> str:
    """Return the terms that cases are judged by: ``tolerance 10%``, ``tolerance 3%; to be found: peak memory 4%``.

    Args:
        tolerances: Allowed worsening in percent by metric.
        finds: Worsening to be found, in percent by metric: a metric's tolerance does not count beside it.
    """
    allowed = {}
    for name, percentage in tolerances.items():
        if name not in finds:
            allowed[name] = percentage
    texts = []
    if allowed:
        texts.append(f"tolerance {_percents_text(allowed)}")
    if finds and allowed:
        named = [f"{METRICS[name].label} {percentage:g}%" for name, percentage in finds.items()]
        texts.append(f"to be found: {', '.join(named)}")
    elif finds:
        texts.append(f"to be found: {_percents_text(finds)}")
    return "; ".join(texts) or "tolerance none"


def _percents_text(percents: Mapping[str, float]) -> str:
    """Return the most frequent percentage, then the others with their metric: ``10%``, ``5%, peak memory 10%``."""
    values = list(percents.values())
    usual = max(values, key=values.count)
    texts = [f"{usual:g}%"]
    for name, percentage in percents.items():
        if percentage != usual:
            texts.append(f"{METRICS[name].label} {percentage:g}%")
    return ", ".join(texts)


def figure_text(value: float, *, metric: str) -> str:
    """Return a value with the metric's label: ``2,412 tokens/sec/GPU``, ``peak memory 0.31 GiB``."""
    figure = METRICS[metric].format(value)
    label = METRICS[metric].label
    if label == METRICS[metric].unit:
        return f"{figure} {label}"
    return f"{label} {figure}"


def figures_text(runs: Sequence[Run]) -> str:
    """Return the figures of the judged metrics of whole steps, calls and runs in one phrase."""
    figures = []
    for metric in WHOLE_STEP:
        value = figure_over_runs(runs, metric=metric.name)
        if value is not None:
            figures.append(figure_text(value, metric=metric.name))
    return ", ".join(figures)


def case_value(case: CaseResult, *, metric: str) -> float | None:
    """Return a case's value of a metric as it was judged; its figure over the runs if the metric was not judged."""
    for comparison in case.verdict.comparisons:
        if comparison.metric == metric and not comparison.anchor:
            return comparison.now
    return figure_over_runs(case.measurement.runs, metric=metric)


def deciding_comparison(comparisons: Sequence[Comparison], *, kind: VerdictKind) -> Comparison | None:
    """Return the first comparison of the verdict's kind, else the first one; None if there is none."""
    for comparison in comparisons:
        if comparison.kind is kind:
            return comparison
    return comparisons[0] if comparisons else None


def verdict_word(case: CaseResult) -> str:
    """Return a case's verdict as tables show it: ``REGRESSED``, ``REGRESSED, waived``, ``PASSED, waiver expired``."""
    if case.has_expired_waiver:
        return f"{case.verdict.kind}, waiver expired"
    if case.waived:
        return f"{case.verdict.kind}, waived"
    return case.verdict.kind.value


def earlier_text(case: CaseResult) -> str:
    """Return a note on the verdicts of earlier attempts of the test; empty if they were the same."""
    if not case.had_other_verdicts:
        return ""
    return f"only the last attempt of this test was {case.verdict.kind}, before it {', '.join(case.earlier_verdicts)}"


def commit_text(provenance: Provenance) -> str:
    """Return the abbreviated commit, marked if the working tree had changes or its state is unknown."""
    commit = provenance.environment().get("commit")
    if commit:
        return f"commit {commit}"
    return "commit unknown" if provenance.git_dirty is None else "no commit"


def shorten_middle(text: str, *, width: int) -> str:
    """Return text in at most width characters: case ids differ at their ends, so the middle is left out."""
    if len(text) <= width:
        return text
    kept = width - len(_ELLIPSIS)
    if kept < 1:
        return text[: max(width, 0)]
    tail = kept // 2
    return text[: kept - tail] + _ELLIPSIS + text[len(text) - tail :]


def injected_mark(inject_pct: float) -> str:
    """Return the word in front of a self-test's verdicts and lines; empty for a real session."""
    return "INJECTED " if inject_pct else ""


def injection_text(inject_pct: float) -> str:
    """Return the warning that every report of a self-test begins with."""
    return f"INJECTED DELAY: each step was slowed by {inject_pct:g}% on purpose (--perf-inject)"
