"""The picture of results.md: detection against false alarms, detection by loss, launches spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rates import Cell, is_incumbent, pick
from rules import OURS, RULES, Call
from scenarios import SCENARIOS, SHIFTS_PCT

_SHOWN = ("quiet", "cluster", "stalls")
_CURVES = "cluster"
_NEVER = 0.003  # where none is drawn: a logarithmic axis has no zero


def draw(cells: Sequence[Cell], *, path: Path) -> None:
    """Write the picture as SVG, the same bytes for the same numbers."""
    mpl.rcParams.update(
        {
            "svg.hashsalt": "verdicts",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    figure, axes = plt.subplots(2, 3, figsize=(13, 8), layout="constrained")
    for axis, name in zip(axes[0], _SHOWN, strict=True):
        _detection_against_false_alarms(axis, name=name, cells=cells)
    _detection_by_loss(axes[1][0], cells=cells)
    _launches_by_loss(axes[1][1], cells=cells)
    _legend(axes[1][2], axes[1][0])
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _style(rule: str) -> dict[str, Any]:
    number = list(RULES).index(rule)
    marker = "osDPXv<>^dph*"[number % 13]
    color = "black" if rule == OURS else mpl.colormaps["tab20"]((2 * number) % 19)
    return {"color": color, "marker": "*" if rule == OURS else marker}


def _detection_against_false_alarms(axis: Axes, *, name: str, cells: Sequence[Cell]) -> None:
    scenario = next(each for each in SCENARIOS if each.name == name)
    for rule in RULES:
        same, lost = (pick(cells, scenario=name, rule=rule, shift_pct=shift) for shift in (0.0, scenario.tolerance_pct))
        alarms = max(same.share_pct(Call.REGRESSED), _NEVER)
        size = 220 if rule == OURS else 60
        axis.scatter(alarms, lost.share_pct(Call.REGRESSED), s=size, zorder=3, label=rule, **_style(rule))
    axis.set_xscale("log")
    axis.set_xlim(_NEVER * 0.7, 100.0)
    axis.set_xticks([_NEVER, 0.01, 0.1, 1.0, 10.0, 100.0], ["none", "0.01", "0.1", "1", "10", "100"])
    axis.set_ylim(0.0, 106.0)
    axis.grid(alpha=0.3)
    axis.set_title(f"{name}: a loss of {scenario.tolerance_pct:g}%, the tolerance")
    axis.set_xlabel("false alarms, %")
    axis.set_ylabel("detected, %")


def _detection_by_loss(axis: Axes, *, cells: Sequence[Cell]) -> None:
    for rule in RULES:
        found = [pick(cells, scenario=_CURVES, rule=rule, shift_pct=shift) for shift in SHIFTS_PCT]
        _curve(axis, rule=rule, values=[cell.share_pct(Call.REGRESSED) for cell in found])
    axis.axvline(5.0, color="grey", linestyle=":")
    axis.set_title(f"{_CURVES}: called REGRESSED")
    axis.set_xlabel("true loss, % (dotted: the tolerance)")
    axis.set_ylabel("%")
    axis.grid(alpha=0.3)


def _launches_by_loss(axis: Axes, *, cells: Sequence[Cell]) -> None:
    for rule in (rule for rule in RULES if not is_incumbent(rule)):
        found = [pick(cells, scenario=_CURVES, rule=rule, shift_pct=shift) for shift in SHIFTS_PCT]
        _curve(axis, rule=rule, values=[cell.launches_each for cell in found])
    axis.set_ylim(0.0, 5.2)
    axis.set_title(f"{_CURVES}: launches spent")
    axis.set_xlabel("true loss, % (rules in use launch once, TensorRT-LLM three times)")
    axis.set_ylabel("launches")
    axis.grid(alpha=0.3)


def _curve(axis: Axes, *, rule: str, values: Sequence[float]) -> None:
    is_ours = rule == OURS
    axis.plot(
        SHIFTS_PCT,
        values,
        label=rule,
        linestyle="--" if is_incumbent(rule) else "-",
        linewidth=3.0 if is_ours else 1.2,
        markersize=11 if is_ours else 5,
        zorder=4 if is_ours else 3,
        **_style(rule),
    )


def _legend(axis: Axes, of: Axes) -> None:
    handles, labels = of.get_legend_handles_labels()
    axis.axis("off")
    axis.legend(
        handles, labels, loc="center left", fontsize=11, frameon=False, title="full line: candidates; dashed: in use"
    )
