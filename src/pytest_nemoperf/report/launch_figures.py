"""Figures of a launch beside its steps: energy, time to the first step, compile time, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records import metrics
from pytest_nemoperf.records.metrics import METRICS, Metric
from pytest_nemoperf.report.cells import figure_text

TITLE: Final = "energy, start-up and checkpoints"
_WITH: Final[Mapping[Metric, tuple[Metric, str]]] = MappingProxyType(
    {
        metrics.JOULES_PER_TOKEN: (metrics.TOKENS_PER_JOULE, "{}"),
        metrics.CHECKPOINT_SAVE_SEC: (metrics.CHECKPOINT_SAVE_GIB_PER_SEC, "{}"),
        metrics.CHECKPOINT_ASYNC_SAVE_SEC: (metrics.CHECKPOINT_ASYNC_TOTAL_SEC, "{} until it was saved"),
        metrics.CHECKPOINT_LOAD_SEC: (metrics.CHECKPOINT_LOAD_GIB_PER_SEC, "{}"),
    }
)
"""Figure in brackets behind another one, and its text."""
_IN_BRACKETS: Final = frozenset(metric for metric, _ in _WITH.values())


def launch_figures(runs: Sequence[Run]) -> list[str]:
    """Return each figure of a case's launches with its label, those that follow from it in brackets; empty for none."""
    texts = []
    for metric in metrics.BESIDE_STEPS:
        value = figure_over_runs(runs, metric=metric.name)
        if value is None or metric in _IN_BRACKETS:
            continue
        text = figure_text(value, metric=metric.name)
        if metric in _WITH:
            text += _in_brackets(runs, *_WITH[metric])
        texts.append(text)
    return texts


def unknown_figures(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each figure of a case's launches that no run has, with the reason: each once."""
    reasons: dict[str, str] = {}
    for run in runs:
        reasons |= run.unknown
    sentences = []
    for name, reason in reasons.items():
        if METRICS[name] not in _IN_BRACKETS and figure_over_runs(runs, metric=name) is None:
            sentences.append(f"{METRICS[name].label} n/a: {reason}")
    return sentences


def _in_brackets(runs: Sequence[Run], metric: Metric, text: str) -> str:
    value = figure_over_runs(runs, metric=metric.name)
    if value is None:
        return ""
    figure = metric.format(value)
    if metric.label == metric.unit:
        figure += f" {metric.unit}"
    return f" ({text.format(figure)})"
