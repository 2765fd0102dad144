"""Values as people read them, the same in every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_nemoperf.comparison import Comparison
from pytest_nemoperf.measure import Run, median_over_runs
from pytest_nemoperf.metrics import (
    JUDGED,
    METRICS,
    Direction,
    format_number,
)
from pytest_nemoperf.provenance import Provenance
from pytest_nemoperf.results import CaseResult

_SEC_PER_MIN = 60
_ELLIPSIS = "..."
_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_FLOP_UNITS = ((10**15, "PFLOP"), (10**12, "TFLOP"), (10**9, "GFLOP"), (10**6, "MFLOP"))


def elapsed_text(seconds: float) -> str:
    """Return a time to wait for, to the second: ``45 s``, ``2 min 05 s``."""
    whole = round(seconds)
    if whole < _SEC_PER_MIN:
        return f"{whole} s"
    return f"{whole // _SEC_PER_MIN} min {whole % _SEC_PER_MIN:02d} s"


def bytes_text(count: float) -> str:
    """Return bytes in the largest decimal unit that leaves a whole digit: ``35.1 GB``."""
    return _with_unit(count, units=_BYTE_UNITS, smallest="B")


def flops_text(count: float) -> str:
    """Return floating-point operations in the largest unit that leaves a whole digit: ``1.5 TFLOP``."""
    return _with_unit(count, units=_FLOP_UNITS, smallest="FLOP")


def _with_unit(count: float, *, units: Sequence[tuple[int, str]], smallest: str) -> str:
    for size, unit in units:
        if count >= size:
            return f"{format_number(count / size)} {unit}"
    return f"{format_number(count)} {smallest}"


def signed_percent(percent: float) -> str:
    """Return a signed percentage with one decimal; what rounds to zero has no sign."""
    text = f"{percent:+.1f}%"
    return "0.0%" if text in ("+0.0%", "-0.0%") else text


def percent(percent: float) -> str:
    """Return a percentage without a sign, two significant digits: ``0.31%``, ``1.1%``, ``12%``."""
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"  # noqa: PLR2004 (two digits)


def allowed_text(comparison: Comparison) -> str:
    """Return the allowed worsening with the sign in which this metric worsens."""
    worse = -1 if METRICS[comparison.metric].direction is Direction.HIGHER else 1
    return signed_percent(worse * comparison.allowed_pct)


def metric_text(comparison: Comparison) -> str:
    """Return what is compared with what: ``tokens/sec/GPU``, or ``tokens/sec/GPU (anchor 25.09)``."""
    label = METRICS[comparison.metric].label
    return f"{label} (anchor {comparison.anchor})" if comparison.anchor else label


def tolerances_text(tolerances: Mapping[str, float]) -> str:
    """Return allowed worsenings in few words: ``10%``, or ``5%, peak memory 10%`` where metrics differ."""
    if not tolerances:
        return "none"
    percents = list(tolerances.values())
    usual = max(percents, key=percents.count)
    apart = [f"{METRICS[name].label} {pct:g}%" for name, pct in tolerances.items() if pct != usual]
    return ", ".join([f"{usual:g}%", *apart])


def figure_text(value: float, *, metric: str) -> str:
    """Return value and label in the order people say them: ``2,412 tokens/sec/GPU``, ``peak memory 0.31 GiB``."""
    figure, label = METRICS[metric].format(value), METRICS[metric].label
    return f"{figure} {label}" if label == METRICS[metric].unit else f"{label} {figure}"


def centre_of(case: CaseResult, *, metric: str) -> float | None:
    """Return what a case's runs stand for in a metric: what was judged, and the median where nothing was."""
    judged = (each.now for each in case.verdict.comparisons if each.metric == metric and not each.anchor)
    return next(judged, median_over_runs(case.measurement.runs, metric=metric))


def figures_text(runs: Sequence[Run]) -> str:
    """Return the judged figures of some runs, medians, in one phrase."""
    medians = [(metric.name, median_over_runs(runs, metric=metric.name)) for metric in JUDGED]
    return ", ".join(figure_text(value, metric=name) for name, value in medians if value is not None)


def verdict_word(case: CaseResult) -> str:
    """Return a case's verdict as tables show it: a loss that passes says so, ``REGRESSED, waived``."""
    if case.has_expired_waiver:
        return f"{case.verdict.kind}, waiver expired"
    return f"{case.verdict.kind}, waived" if case.waived else case.verdict.kind.value


def earlier_text(case: CaseResult) -> str:
    """Return what earlier attempts of the test came to, where the last one came to something else."""
    if not case.had_other_verdicts:
        return ""
    return f"only the last attempt of this test was {case.verdict.kind}, before it {', '.join(case.earlier_verdicts)}"


def commit_text(provenance: Provenance) -> str:
    """Return the commit as the environment has it: short, and with a mark if the code was not just that."""
    commit = provenance.environment().get("commit")
    if commit:
        return f"commit {commit}"
    return "commit unknown" if provenance.git_dirty is None else "no commit"


def shorten_middle(text: str, *, width: int) -> str:
    """Return text in at most so many characters: the two ends of a case id tell more than its middle."""
    if len(text) <= width:
        return text
    kept = width - len(_ELLIPSIS)
    if kept < 1:
        return text[: max(width, 0)]
    tail = kept // 2
    return text[: kept - tail] + _ELLIPSIS + text[len(text) - tail :]


def injection_text(inject_pct: float) -> str:
    """Return what every report of a self-test says first."""
    return f"INJECTED DELAY: each step was slowed by {inject_pct:g}% on purpose (--perf-inject)"


INJECTION_MEANING = "A self-test: none of these figures is real, none is stored as a baseline."
