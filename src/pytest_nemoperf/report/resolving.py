"""What a case can resolve, in words: noise, tolerance, and whether the two go together."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_nemoperf.comparison import Comparison
from pytest_nemoperf.metrics import METRICS
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.report.cells import metric_text, percent

LOOSE_FROM = 4.0
"""A tolerance so many times what the case resolves is pointed out."""


def interval_text(comparison: Comparison) -> str:
    """Return the 95% interval of the change: ``-6.9% to -5.5%``; a dash where there is none."""
    if comparison.low_pct is None or comparison.high_pct is None:
        return "-"
    return f"{comparison.low_pct:+.1f}% to {comparison.high_pct:+.1f}%"


def short_interval_text(comparison: Comparison) -> str:
    """Return interval_text for a narrow column: ``-6.9..-5.5%``."""
    if comparison.low_pct is None or comparison.high_pct is None:
        return "-"
    return f"{comparison.low_pct:+.1f}..{comparison.high_pct:+.1f}%"


def resolution_text(comparison: Comparison) -> str:
    """Return what the case resolves: ``tolerance 3%, this case resolves 1.1% with 5 baseline runs``."""
    if comparison.resolution_pct is None:
        return ""
    is_against_baseline = comparison.num_baseline_runs > 0  # and not beside another revision, round by round
    runs = (
        count_text(comparison.num_baseline_runs, "baseline run")
        if is_against_baseline
        else count_text(comparison.num_runs, "round")
    )
    resolved = percent(comparison.resolution_pct)
    return f"tolerance {comparison.allowed_pct:g}%, this case resolves {resolved} with {runs}"


def noise_cells(comparison: Comparison) -> list[str]:
    """Return metric, noise between the baseline's runs as seen, expected and reckoned with, and what is resolved."""
    percents = (
        comparison.seen_noise_pct,
        comparison.expected_noise_pct,
        comparison.noise_pct,
        comparison.resolution_pct,
        comparison.allowed_pct,
    )
    return [metric_text(comparison), *("-" if value is None else percent(value) for value in percents)]


NOISE_HEADINGS = ("metric", "seen", "expected", "reckoned", "resolves", "tolerance")


def loose_texts(cases: Sequence[Sequence[Comparison]]) -> list[str]:
    """Return which tolerances are far above what the cases resolve, one line for each metric and tolerance."""
    found: dict[tuple[str, float], list[float]] = {}
    for each in (comparison for comparisons in cases for comparison in comparisons if not comparison.anchor):
        if each.resolution_pct is not None and each.allowed_pct > LOOSE_FROM * each.resolution_pct:
            found.setdefault((METRICS[each.metric].label, each.allowed_pct), []).append(each.resolution_pct)
    return [
        f"{label} {allowed:g}%: {count_text(len(resolved), 'case')} could hold {percent(max(resolved))}"
        for (label, allowed), resolved in found.items()
    ]
