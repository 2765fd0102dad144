"""Change, noise, and allowed and found losses of a comparison as text."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import METRICS, TFLOPS_PER_SEC_PER_GPU, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.report.cells import metric_text, percent
from pytest_nemoperf.verdict.comparison import Comparison

LOOSE_RATIO = 4.0
"""A tolerance so many times the least distance to what is found is reported as loose."""

NOISE_HEADINGS = ("metric", "seen", "expected", "reckoned", "sessions", "allows", "finds")


def interval_text(comparison: Comparison) -> str:
    """Return the 95% interval of the change: ``-6.9% to -5.5%``; a dash if there is none."""
    if comparison.low_pct is None or comparison.high_pct is None:
        return "-"
    return f"{comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"


def short_interval_text(comparison: Comparison) -> str:
    """Return interval_text for a narrow column: ``-6.9..-5.5%``."""
    if comparison.low_pct is None or comparison.high_pct is None:
        return "-"
    return f"{comparison.low_pct:+.1f}..{comparison.high_pct:+.1f}%"


def resolution_text(comparison: Comparison) -> str:
    """Return the losses that are allowed and found: ``allows 3%, finds 4.21%``."""
    if comparison.finds_pct is None:
        return ""
    return f"allows {limit_text(comparison.allowed_pct)}, finds {limit_text(comparison.finds_pct)}"


def limit_text(value: float | None) -> str:
    """Return a loss that is allowed or found, three significant digits: ``3%``, ``4.21%``; a dash for None.

    One more than noise is given with, so that what is found does not look like what is allowed.
    """
    if value is None:
        return "-"
    return f"{value:.3g}%"


def noise_cells(comparison: Comparison) -> list[str]:
    """Return a comparison's cells under NOISE_HEADINGS."""
    return [
        metric_text(comparison),
        percent(comparison.seen_noise_pct),
        percent(comparison.expected_noise_pct),
        percent(comparison.noise_pct),
        percent(comparison.session_noise_pct),
        limit_text(comparison.allowed_pct),
        limit_text(comparison.finds_pct),
    ]


def loose_texts(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a line for each tolerance that is far above the noise of some of the cases, metrics alike together."""
    loose: dict[tuple[str, float], list[float]] = {}
    for comparison in comparisons:
        allowed = comparison.allowed_pct
        if comparison.finds_pct is None or comparison.anchor:
            continue
        beyond = comparison.finds_pct - allowed
        if allowed > LOOSE_RATIO * beyond:
            loose.setdefault((METRICS[comparison.metric].label, allowed), []).append(beyond)
    for label, allowed in list(loose):
        if label == TFLOPS_PER_SEC_PER_GPU.label and (TOKENS_PER_SEC_PER_GPU.label, allowed) in loose:
            del loose[label, allowed]  # changes as tokens/s do
    labels: dict[tuple[str, str], list[str]] = {}
    for (label, allowed), distances in loose.items():
        cases = count_text(len(distances), "case")
        remark = f"{cases} would find a loss {percent(max(distances))} beyond any tolerance"
        labels.setdefault((limit_text(allowed), remark), []).append(label)
    lines = []
    for (limit, remark), alike in labels.items():
        verb = "allow" if len(alike) > 1 else "allows"
        lines.append(f"{' and '.join(alike)} {verb} {limit}: {remark}")
    return lines
