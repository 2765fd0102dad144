"""Blocks of text that follows from the rows: formulas of the metrics, notes, changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pytest_nemoperf.errors import RecipeError, count_text
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.pages.selection import Selection
from pytest_nemoperf.pages.sources import PageRows
from pytest_nemoperf.records.step import RL_PHASES
from pytest_nemoperf.report.escape import code, markdown_cell
from pytest_nemoperf.report.markdown.release_delta import delta_table
from pytest_nemoperf.results.release_delta import compare_releases
from pytest_nemoperf.results.row import Row, RowKind


def metrics_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return the metrics of the page with their formulas, and the FLOPs conventions that its rows use."""
    lines = _rl_metrics() if selection.is_rl else _pretrain_metrics()
    return [*lines, *_convention_lines(_all_rows(rows, selection)), ""]


def _pretrain_metrics() -> list[str]:
    return [
        *_formula(
            "- **Tokens/sec/GPU**: tokens that a GPU trains in a second.",
            "Tokens/sec/GPU = GBS x Sequence Length / (step time in seconds x #-GPUs)",
        ),
        *_formula(
            "- **Model TFLOP/sec/GPU**: floating-point operations that the model needs, in units of 10^12; activations "
            "that are computed again do not count.",
            "Model TFLOP/sec/GPU = FLOPs per token x Tokens/sec/GPU / 10^12",
        ),
        *_formula(
            "- **MFU**: the former as a share of the dense peak of the GPU in the precision of training. The details "
            "of each table print both.",
            "MFU = Model TFLOP/sec/GPU / peak TFLOP/sec",
        ),
        *_formula("- **GA**: micro-batches of an optimizer step.", "GA = GBS / (MBS x data-parallel size)"),
    ]


def _rl_metrics() -> list[str]:
    phases = [phase.replace("_", " ") for phase in RL_PHASES if phase != "idle"]
    return [
        *_formula(
            "- **Step time**: wall time of a step, the sum of its phases; of generation beside the training, only the "
            "part that the training waits for (exposed generation).",
            f"Total Step time = {' + '.join(phases)}",
        ),
        *_formula(
            "- **Tokens/sec/GPU**: tokens of a step, prompts and responses, over the whole step and all GPUs.",
            "Tokens/sec/GPU = (prompt tokens + response tokens) / (Total Step time x #-GPUs)",
        ),
        "- **Training MFU**: two figures have this name, and the details of each table print both:",
        *_formula(
            "  - model floating-point operations per second and GPU, in the time of training alone:",
            "Training FLOP/sec/GPU = FLOPs per token x tokens of the step / (training time x GPUs that train)",
        ),
        *_formula(
            "  - their share of the dense peak of the GPU in the precision of training:",
            "Training MFU = Training FLOP/sec/GPU / peak FLOP/sec",
        ),
    ]


def _formula(item: str, formula: str) -> list[str]:
    """Return an item of a list with its formula on a line of its own; the backslash ends the line before it."""
    indent = len(item) - len(item.lstrip(" ")) + 2
    return [f"{item}\\", f"{' ' * indent}`{formula}`"]


def _convention_lines(rows: Iterable[Row]) -> list[str]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.flops_convention:
            counts[row.flops_convention] = counts.get(row.flops_convention, 0) + 1
    if not counts:
        return ["- **FLOPs convention**: none yet, for no row of this page has model FLOPs."]
    lines = ["- **FLOPs convention**: FLOPs per token follow from the architecture, under a named convention;"]
    lines.append("  figures under different ones do not compare. The rows of this page use:")
    for name, count in sorted(counts.items()):
        lines.append(f"  - {code(name)} ({count_text(count, 'row')}): {_convention_text(name)}")
    return lines


def _convention_text(name: str) -> str:
    try:
        convention = find_convention(name)
    except RecipeError:
        return "not one that this version knows"
    halved = "causal attention is halved" if convention.is_causal_halved else "causal attention is not halved"
    return f"{halved}; {markdown_cell(convention.source)}"


def changes_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return the changes of the newest release, or of the one that the page is of, since the one before it."""
    names = [release.name for release in rows.releases]
    if not names:
        return ["No release is frozen yet. `nemoperf release NAME` freezes the stored baselines as one.", ""]
    at = names.index(rows.release) if rows.release else 0
    now = rows.releases[at]
    older = rows.releases[at + 1 :]
    previous = [release for release in older if release.name == now.previous] or list(older[:1])
    if not previous:
        return [f"Release {markdown_cell(now.name)} is the first one.", ""]
    then = previous[0]
    delta = compare_releases(
        replace(now, rows=tuple(selection.of(now.rows))), then=replace(then, rows=tuple(selection.of(then.rows)))
    )
    if not (delta.changes or delta.new or delta.gone):
        names_text = f"{markdown_cell(now.name)} and {markdown_cell(then.name)}"
        return [f"Releases {names_text} have no measured rows of this section.", ""]
    return delta_table(delta)


def notes_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return notes on averaging, FLOPs, balance of experts and dropped tokens, as far as the rows tell."""
    chosen = [*selection.of(rows.measured), *selection.of(rows.measured, is_native=True)]
    measured = [row for row in chosen if row.origin.kind is RowKind.MEASURED]
    lines = [
        "- A measured figure is the median over the measured steps of a run, warm-up left out, and then the geometric "
        f"mean over the runs{_runs_text(measured)}, the slowest counted as at most 5% slower than the next. "
        "A published one is a single value, without spread.",
        *_judged_lines(measured),
        "- FLOPs are counted under the convention that the details name; tokens per second compare across conventions, "
        "FLOPs do not.",
        *_experts_lines(measured),
        "- Published rows route and drop tokens as their own page says.",
        *_lengths_lines(measured),
    ]
    return [*lines, ""]


def _runs_text(rows: Sequence[Row]) -> str:
    counts = sorted({row.num_runs for row in rows})
    if not counts:
        return ""
    if len(counts) == 1:
        return f" (here {count_text(counts[0], 'run')})"
    return f" (here {counts[0]} to {count_text(counts[-1], 'run')})"


def _judged_lines(rows: Sequence[Row]) -> list[str]:
    judged = sum(bool(row.judged) for row in rows)
    if not judged:
        return []
    are = "is" if judged == 1 else "are"
    return [
        f"- {count_text(judged, 'row')} {are} of a session's results, with the figures that it judged: means over the "
        "runs that a single stalled run does not move."
    ]


def _experts_lines(rows: Sequence[Row]) -> list[str]:
    """Return notes on mixtures of experts: assignment of the tokens, and none dropped."""
    balanced: dict[str, None] = {}
    routed: dict[str, None] = {}
    others: dict[str, None] = {}
    for row in rows:
        if _has_experts(row.settings):
            names = balanced if row.settings.get("is_router_balanced") else routed
            names[row.model] = None
            if not _is_dropless(row.settings):
                others[row.model] = None
    lines = []
    if balanced:
        lines.append(f"- Mixtures of experts with tokens spread evenly over the experts: {_names(balanced)}.")
    if routed:
        lines.append(f"- Mixtures of experts with tokens routed by the model's own router: {_names(routed)}.")
    if others:
        lines.append(f"- Token drop is as the framework's own recipe or options say: {_names(others)}.")
    elif balanced or routed:
        lines.append("- Mixtures of experts are dropless: no recipe sets a capacity, so that no token is dropped.")
    elif rows:
        lines.append("- No measured row is of a mixture of experts, so that no token could be dropped.")
    return lines


def _has_experts(settings: Mapping[str, Any]) -> bool:
    model = settings.get("model")
    return isinstance(model, Mapping) and bool(model.get("moe"))


def _is_dropless(settings: Mapping[str, Any]) -> bool:
    """Whether a recipe leaves the capacity of its experts open, as frameworks do that then drop no token."""
    options = f"{settings.get('framework_options', '')}{settings.get('command', '')}".lower()
    return not settings.get("framework_config") and "capacity" not in options and "drop" not in options


def _lengths_lines(rows: Iterable[Row]) -> list[str]:
    pinned = dict.fromkeys(row.model for row in rows if row.rollouts is not None and row.rollouts.is_pinned)
    if not pinned:
        return []
    return [f"- Responses with pinned lengths, the same in every step, whatever is generated: {_names(pinned)}."]


def _names(names: Iterable[str]) -> str:
    return ", ".join(map(markdown_cell, names))


def _all_rows(rows: PageRows, selection: Selection) -> list[Row]:
    """Return the rows of every block of the page; those of the native engine are of any system."""
    every = [*rows.measured]
    for row in rows.published:
        if rows.release in ("", row.origin.release):
            every.append(row)
    for release in rows.releases:
        if rows.release in ("", release.name):
            every += release.rows
    return [*selection.of(every), *replace(selection, systems=()).of(rows.measured, is_native=True)]
