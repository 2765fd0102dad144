"""The picture of results.md and docs/verdicts.md: the chance of each verdict by the true loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from rates import CURVE_LOSSES_PCT, Cell, pick
from rules import METRIC, USUAL, Call, limits_of, policy_of
from scenarios import SCENARIOS, Scenario

from pytest_nemoperf.verdict.sequential import loss_of_cost

_SHOWN = {
    "quiet GPU": "quiet GPU: 0.3% launches, days, rounds",
    "other days": "GPU with other days: 0.5% launches, 1% days",
    "cluster": "cluster: 1.2% launches and rounds, 1% days",
    "shared CPU": "shared CPU: 4.5% launches, 15% days",
}
_VERDICTS = {
    "REGRESSED": ((Call.REGRESSED,), "#c0392b"),
    "INCONCLUSIVE": ((Call.UNDECIDED,), "#b7bcc2"),
    "PASSED": ((Call.PASSED, Call.IMPROVED), "#3b8f5a"),
}


def draw(curves: Sequence[Cell], *, path: Path) -> None:
    """Write the picture as SVG, the same bytes for the same numbers."""
    mpl.rcParams.update(
        {
            "svg.hashsalt": "verdicts",
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Arial", "Helvetica"],
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.4), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)
    for axis, name in zip(axes.flat, _SHOWN, strict=True):
        scenario = next(each for each in SCENARIOS if each.name == name)
        _panel(axis, scenario=scenario, curves=curves)
    for axis in axes[1]:
        axis.set_xlabel("true loss of throughput, %")
    for axis in axes[:, 0]:
        axis.set_ylabel("chance of the verdict, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=11)
    figure.savefig(path, metadata={"Date": None}, facecolor="white")
    plt.close(figure)


def _panel(axis: Axes, *, scenario: Scenario, curves: Sequence[Cell]) -> None:
    """Draw the shares of the verdicts on top of each other, and mark what is allowed and found."""
    losses = CURVE_LOSSES_PCT[scenario.system]
    cells = [pick(curves, scenario=scenario.name, rule=USUAL.name, loss=f"{loss:g}") for loss in losses]
    shares = []
    colors = []
    for calls, color in _VERDICTS.values():
        shares.append([cell.share_pct(*calls) for cell in cells])
        colors.append(color)
    axis.stackplot(losses, shares, colors=colors, labels=list(_VERDICTS), alpha=0.9, linewidth=0)
    policy = policy_of(scenario.system)
    found = loss_of_cost(limits_of((0.0,), sessions=(), policy=policy).found, metric=METRIC)
    for word, loss in (("allowed", scenario.tolerance_pct), ("finds", found)):
        axis.axvline(loss, color="black", linewidth=1.2, linestyle="--" if word == "allowed" else "-")
        axis.annotate(
            f"{word} {loss:.2g}%",
            (loss, 100.0),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=10,
        )
    axis.set_xlim(losses[0], losses[-1])
    axis.set_ylim(0.0, 100.0)
    axis.set_title(_SHOWN[scenario.name], fontsize=11, pad=20)
