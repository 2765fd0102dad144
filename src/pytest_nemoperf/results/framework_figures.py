"""Figures of frameworks that ran one recipe, beside each other, as the JSON results file holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_nemoperf.records.metrics import PEAK_MEMORY_GIB, TFLOPS_PER_SEC_PER_GPU, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.comparison import VerdictKind

COMPARED: Final = (TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU, PEAK_MEMORY_GIB)
"""Metrics of a framework beside another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureRange:
    """A metric of one framework over the launches.

    Attributes:
        low: Least value of a launch.
        figure: Figure over the launches, as in the other reports.
        high: Greatest value of a launch.
    """

    low: float
    figure: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossBeside:
    """Losses of two frameworks at one step, medians over the launches.

    Attributes:
        step: Index of the step: the last one at which both recorded a loss.
        loss: The framework's.
        reference: The reference's.
        change_pct: Difference in percent of the reference's; 0 if the six recorded digits are equal.
    """

    step: int | None
    loss: float
    reference: float
    change_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkFigures:
    """One framework's figures of a recipe.

    Attributes:
        framework: Name of the framework.
        case: Case id.
        nodeid: Test that asked for it.
        verdict: Verdict on the case; None if it was not judged.
        problem: Reason that there are no figures; empty if there are.
        num_runs: Launches.
        metrics: Figure over the launches, with the least and the greatest, by metric name.
        ratio: tokens/sec/GPU divided by the reference's; None if one of them has none.
        spread_pct: (max - min) / median of tokens/sec/GPU over the launches, percent; None for a single one.
        loss: Loss beside the reference's; None for the reference itself, or if no step has both.
    """

    framework: str
    case: str
    nodeid: str
    verdict: VerdictKind | None = None
    problem: str = ""
    num_runs: int = 0
    metrics: Mapping[str, FigureRange] = field(default_factory=dict)
    ratio: float | None = None
    spread_pct: float | None = None
    loss: LossBeside | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkComparison:
    """One recipe in several frameworks, which ran one after another.

    Attributes:
        recipe: Case id without the framework.
        reference: Framework that the others are divided by: the first one with figures.
        rows: One a framework; in the order of ``--perf-framework``, else in that of the session.
        notes: Cautions on the figures.
    """

    recipe: str
    reference: str
    rows: tuple[FrameworkFigures, ...]
    notes: tuple[str, ...] = ()
