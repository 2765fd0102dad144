"""Figures of a launch beside its steps: energy, time to the first step, compile time, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records import metrics
from pytest_nemoperf.records.metrics import METRICS, Metric
from pytest_nemoperf.report.cells import figure_text

TITLE: Final = "energy, start-up and checkpoints"
_WITH: Final[Mapping[Metric, Metric]] = {
    metrics.JOULES_PER_TOKEN: metrics.TOKENS_PER_JOULE,
    metrics.CHECKPOINT_SAVE_SEC: metrics.CHECKPOINT_SAVE_GIB_PER_SEC,
    metrics.CHECKPOINT_ASYNC_SAVE_SEC: metrics.CHECKPOINT_ASYNC_TOTAL_SEC,
    metrics.CHECKPOINT_LOAD_SEC: metrics.CHECKPOINT_LOAD_GIB_PER_SEC,
}
"""Figures in brackets behind another one."""
_FIGURES: Final = (*(each for each in metrics.BESIDE_STEPS if each not in _WITH.values()),)


def launch_figures(runs: Sequence[Run]) -> list[str]:
    """Return each figure of a case's launches with its label, those that follow from it in brackets; empty for none."""
    texts = []
    for metric in _FIGURES:
        text = _text(runs, metric)
        if text and metric in _WITH:
            beside = _text(runs, _WITH[metric])
            text += f" ({beside})" if beside else ""
        if text:
            texts.append(text)
    return texts


def unknown_figures(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for each figure of a case's launches that no run has, with the reason: each once."""
    reasons: dict[str, str] = {}
    for run in runs:
        reasons |= run.unknown
    sentences = []
    for name, reason in reasons.items():
        if METRICS[name] not in _WITH.values() and figure_over_runs(runs, metric=name) is None:
            sentences.append(f"{METRICS[name].label} n/a: {reason}")
    return sentences


def _text(runs: Sequence[Run], metric: Metric) -> str:
    value = figure_over_runs(runs, metric=metric.name)
    return "" if value is None else figure_text(value, metric=metric.name)
