"""Change, noise and resolution of a comparison as text."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.cells import metric_text, percent
from pytest_nemoperf.verdict.comparison import Comparison

LOOSE_RATIO = 4.0
"""A tolerance so many times the resolution is reported as loose."""

NOISE_HEADINGS = ("metric", "seen", "expected", "reckoned", "resolves", "tolerance")


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
    """Return tolerance and resolution: ``tolerance 3%, this case resolves 1.1% with 5 baseline runs``."""
    if comparison.resolution_pct is None:
        return ""
    if comparison.num_baseline_runs > 0:
        runs = count_text(comparison.num_baseline_runs, "baseline run")
    else:  # beside another revision, round by round
        runs = count_text(comparison.num_runs, "round")
    resolved = percent(comparison.resolution_pct)
    return f"tolerance {comparison.allowed_pct:g}%, this case resolves {resolved} with {runs}"


def noise_cells(comparison: Comparison) -> list[str]:
    """Return a comparison's cells under NOISE_HEADINGS."""
    return [
        metric_text(comparison),
        percent(comparison.seen_noise_pct),
        percent(comparison.expected_noise_pct),
        percent(comparison.noise_pct),
        percent(comparison.resolution_pct),
        percent(comparison.allowed_pct),
    ]


def loose_texts(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a line for each metric and tolerance that is far above the resolution of some of the cases."""
    loose: dict[tuple[str, float], list[float]] = {}
    for comparison in comparisons:
        resolved = comparison.resolution_pct
        allowed = comparison.allowed_pct
        if resolved is not None and allowed > LOOSE_RATIO * resolved and not comparison.anchor:
            loose.setdefault((METRICS[comparison.metric].label, allowed), []).append(resolved)
    lines = []
    for (label, allowed), resolutions in loose.items():
        cases = count_text(len(resolutions), "case")
        lines.append(f"{label} {allowed:g}%: {cases} could hold {percent(max(resolutions))}")
    return lines
