"""Published rows as baselines of plans: the rows that promise something of a plan, the newest release first.

A row matches a plan if everything that its page prints of the workload is the plan's. Pages print neither
recomputation, nor sharding of optimizer states, seeds and versions, so these may differ, and the baseline says so. A
row that does not print its precision or its sequence length matches nothing: it may be of any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.baselines.baseline import Baseline, PublishedSource
from pytest_nemoperf.errors import BaselineError, RecipeError, count_text
from pytest_nemoperf.frameworks.plans.nemo_rl import backend_of
from pytest_nemoperf.frameworks.titles import framework_title
from pytest_nemoperf.measure.measurement import Run, workload_of
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.precisions import printed_precisions
from pytest_nemoperf.published.recipes import BACKENDS, BALANCED, incomparable_conditions
from pytest_nemoperf.published.row import PublishedRollouts, PublishedRow
from pytest_nemoperf.published.row_model import row_convention, row_model
from pytest_nemoperf.recipes.overrides import CHANGED_SUFFIX
from pytest_nemoperf.recipes.recipe import PRETRAIN, Plan
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.records.metrics import (
    MEAN_RESPONSE_LEN,
    METRICS,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
)
from pytest_nemoperf.records.provenance import Provenance

_OWN_ROWS: Final[Mapping[str, str]] = MappingProxyType(
    {"megatron": "megatron_bridge", "megatron_lm": "megatron_bridge"}
)
"""Framework of the rows that count as a framework's own, where it has none of its name: the same Megatron-Core."""
_BATCH_KEYS: Final = ("global_batch_size", "micro_batch_size", "seq_len")
_DEGREES: Final = ("tp", "pp", "cp", "vp", "ep", "etp")
_MAX_NAMED: Final = 3
_MONTH: Final = re.compile(r"(?<!\d)(?:20)?([2-9]\d)[.-](0[1-9]|1[0-2])(?!\d)")
"""Releases named by year and month: 26.04.01, NeMo24.07, v25.05, 2024-12."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A published row with the architecture that its model's name stands for.

    Attributes:
        row: The row.
        model: Architecture, with as many layers as the page prints; None if the catalog has no such model.
        why_excluded: Reason why it is no baseline; empty for one that is.
    """

    row: PublishedRow
    model: ModelConfig | None
    why_excluded: str = ""


def published_baselines(plan: Plan) -> tuple[Baseline, ...]:
    """Return the published rows that match a plan as baselines: own framework first, newest release first.

    Before all others comes the row that the plan's recipe was made of.

    Raises:
        BaselineError: If the file of published rows is broken, or a printed figure is no positive number.
    """
    matching = [each.row for each in _candidates(plan) if not each.why_excluded and _is_match(each, plan=plan)]
    own = _OWN_ROWS.get(plan.framework, plan.framework)
    matching.sort(key=_age, reverse=True)
    matching.sort(key=lambda row: row.framework != own)
    matching.sort(key=lambda row: not _is_made_of(row, plan=plan))  # a row's own recipe is judged by that row
    baselines = [_baseline(row, plan=plan, matching=matching) for row in matching]
    baselines.sort(key=lambda baseline: not baseline.runs[0].metrics)  # TFLOP/s alone, under another convention
    return tuple(baselines)


def _baseline(row: PublishedRow, *, plan: Plan, matching: Sequence[PublishedRow]) -> Baseline:
    """Return a published row as the baseline of a plan that it matches.

    It has one run with the figures as they are printed, the workload's keys that are printed, and no machine.
    """
    metrics = _printed_metrics(row)
    notes = [*_framework_notes(row, plan=plan), *_routing_notes(row, plan=plan), *_unprinted_notes(row)]
    flops_note = _flops_note(row, plan=plan)
    has_same_flops = TFLOPS_PER_SEC_PER_GPU.name in metrics and not flops_note
    if flops_note:
        del metrics[TFLOPS_PER_SEC_PER_GPU.name]
        notes.append(flops_note)
    notes += row.notes
    notes += _own_row_notes(plan)
    notes += _other_values(row, others=matching)
    if row.rollouts is not None:
        metrics[MEAN_RESPONSE_LEN.name] = float(row.rollouts.mean_response_len)
    return Baseline(
        case=plan.case,
        system=plan.system,
        machine={},
        workload=_printed_workload(row, plan=plan),
        runs=(Run(metrics=metrics, num_steps=0, step_time_mad_pct=0.0),),
        provenance=Provenance(date=row.date, git_commit=None, git_dirty=None, device=row.system_title),
        reason=f"published in {row.source} {row.release}",
        flops_per_token=plan.flops_per_token if has_same_flops else None,
        flops_convention=plan.flops_convention if has_same_flops else None,
        published=PublishedSource(
            row=row.id,
            release=row.release,
            source=row.source,
            url=row.url,
            framework=row.framework,
            notes=tuple(notes),
            rounding_pct=_rounding_pct(row, metrics=metrics),
        ),
    )


def why_unpublished(plan: Plan) -> str:
    """Return the reason why no published row is a baseline of a plan: matching rows kept out, or the nearest rows.

    Raises:
        BaselineError: If the file of published rows is broken.
    """
    if not _index(plan.system):
        return f"no published row is of {plan.system}"
    candidates = _candidates(plan)
    kept_out = []
    for each in candidates:
        if each.why_excluded and _is_match(each, plan=plan):
            kept_out.append(f"row {each.row.id} ({each.row.source} {each.row.release}): {each.why_excluded}")
    if kept_out:
        return f"only published rows that are no baselines match: {'; '.join(kept_out[:_MAX_NAMED])}"
    missing = f"no published row of {plan.system} is of this workload"
    nearest: _Candidate | None = None
    differences: tuple[str, ...] = ()
    for each in sorted(candidates, key=lambda each: _age(each.row), reverse=True):
        if each.why_excluded or not _is_same_model(each, plan=plan):
            continue
        found = tuple(_differences(each, plan=plan))
        is_own = _is_made_of(each.row, plan=plan)
        if is_own or nearest is None or len(found) < len(differences):
            nearest = each
            differences = found
        if is_own:
            break
    if nearest is None:
        return f"{missing}: none has {plan.model.name} on {count_text(plan.layout.total_gpus, 'GPU')}"
    row = nearest.row
    which = "the recipe was made of" if _is_made_of(row, plan=plan) else "the nearest is"
    return f"{missing}; {which} row {row.id} ({row.source} {row.release}), and there {', '.join(differences)}"


def _is_made_of(row: PublishedRow, *, plan: Plan) -> bool:
    """Return whether a plan's recipe was made of the row, with --perf-set or without."""
    return plan.case.removesuffix(CHANGED_SUFFIX).endswith(f".{row.id}")


@cache
def _index(system: str) -> Mapping[int, tuple[_Candidate, ...]]:
    """Return the published rows of a system by their GPUs."""
    rows = published_rows(system)
    index: dict[int, list[_Candidate]] = {}
    for row in rows.rows:
        why = "its figures were never released" if row.is_draft else ""
        index.setdefault(row.gpus, []).append(_Candidate(row=row, model=_model_of(row), why_excluded=why))
    for excluded in rows.excluded:
        candidate = _Candidate(row=excluded.row, model=_model_of(excluded.row), why_excluded=excluded.reason)
        index.setdefault(excluded.row.gpus, []).append(candidate)
    return {gpus: tuple(candidates) for gpus, candidates in index.items()}


def _candidates(plan: Plan) -> tuple[_Candidate, ...]:
    return _index(plan.system).get(plan.layout.total_gpus, ())


def _model_of(row: PublishedRow) -> ModelConfig | None:
    try:
        return row_model(row)
    except RecipeError:
        return None


def _is_match(candidate: _Candidate, *, plan: Plan) -> bool:
    if next(_differences(candidate, plan=plan), None) is not None:
        return False
    return _is_same_model(candidate, plan=plan)


def _is_same_model(candidate: _Candidate, *, plan: Plan) -> bool:
    """Return whether a plan's architecture is the printed one; it may have another name."""
    model = candidate.model
    if model is None:
        return False
    if plan.rl is not None:
        model = replace(model, mtp_num_layers=0)  # reinforcement learning trains without
    return replace(plan.model, name=model.name) == model


def _differences(candidate: _Candidate, *, plan: Plan) -> Iterator[str]:
    """Yield a phrase for each printed setting that is not the plan's, but for the model and the GPUs."""
    row = candidate.row
    yield from incomparable_conditions(row)
    if row.task != plan.workload:
        yield f"the task is {row.task}, not {plan.workload}"
    if not row.precision:
        yield "no precision is printed, so that it promises nothing of this one"
    elif plan.precision not in printed_precisions(row.precision):
        yield f"the precision is {row.precision}, not {plan.precision}"
    if row.seq_len is None:
        yield "no sequence length is printed, so that it promises nothing of this one"
    for name in _BATCH_KEYS:
        yield from _difference(name, printed=getattr(row, name), own=getattr(plan, name))
    layout = plan.layout
    for name in _DEGREES:
        if name != "vp" or layout.pp > 1:  # pages print it without a pipeline as well
            yield from _difference(name, printed=getattr(row, name), own=getattr(layout, name))
    if row.fsdp is not None and not _is_same_sharding(row.fsdp, plan=plan):
        yield f"FSDP is {row.fsdp}, and dp_shard={layout.dp_shard} here"
    if row.recompute in ("none", "selective", "full"):
        yield from _difference("recompute", printed=row.recompute, own=str(plan.recompute))
    if row.rollouts is not None and plan.rl is not None:
        yield from _rollout_differences(row.rollouts, plan=plan, rl=plan.rl)
    if not _printed_names(row):
        yield "no speed is printed"


def _difference(name: str, *, printed: object, own: object) -> Iterator[str]:
    if printed is not None and printed != own:
        yield f"{name} is {printed}, not {own}"


def _is_same_sharding(fsdp: int, *, plan: Plan) -> bool:
    """Return whether a plan shards its weights as printed: 0 for DDP, 1 for FSDP, more for so many shards."""
    layout = plan.layout
    if fsdp > 1:
        return layout.dp_shard == fsdp
    if layout.dp == 1:
        return True
    return (layout.dp_shard > 1) == bool(fsdp)


def _rollout_differences(rollouts: PublishedRollouts, *, plan: Plan, rl: RL) -> Iterator[str]:
    yield from _difference("max_staleness", printed=rollouts.max_staleness, own=rl.max_staleness)
    yield from _difference("samples of a step", printed=rollouts.num_samples, own=rl.num_samples)
    generation = plan.layout.generation
    own = {"tp": 1, "pp": 1, "dp": plan.layout.gpus}
    if generation is not None:
        own = {"tp": generation.tp, "pp": generation.pp, "dp": generation.dp}
    for name, degree in own.items():
        yield from _difference(f"generation's {name}", printed=getattr(rollouts, name), own=degree)
    yield from _difference("generation's precision", printed=rollouts.precision.lower(), own=plan.generation_precision)
    if plan.framework == "nemo_rl":
        printed = BACKENDS.get(rollouts.backend, rollouts.backend)
        yield from _difference("the training backend", printed=printed, own=backend_of(plan))


def _printed_names(row: PublishedRow) -> list[str]:
    """Return the names of the printed figures that are metrics of runs."""
    return [name for name in row.printed if name in METRICS]


def _printed_metrics(row: PublishedRow) -> dict[str, float]:
    metrics = {}
    for name in _printed_names(row):
        text = row.printed[name]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise BaselineError(
                f"catalog/published/{row.system}.json: row {row.id} prints {name} {text!r}; a figure must be a "
                "positive number: correct the row, or take it out"
            )
        metrics[name] = value
    return metrics


def _rounding_pct(row: PublishedRow, *, metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the largest distance of each true rate from the printed one, percent."""
    rounding = {}
    for name in (TOKENS_PER_SEC_PER_GPU.name, TFLOPS_PER_SEC_PER_GPU.name):
        if name in metrics:
            rounding[name] = 100.0 * row.rounding(name) / metrics[name]
    return rounding


def _printed_workload(row: PublishedRow, *, plan: Plan) -> dict[str, Any]:
    """Return the keys of a plan's workload that a row prints."""
    whole = workload_of(plan)
    workload = {name: whole[name] for name in ("workload", "model", "precision")}
    for name in _BATCH_KEYS:
        if getattr(row, name) is not None:
            workload[name] = whole[name]
    if row.recompute in ("none", "selective", "full"):
        workload["recompute"] = whole["recompute"]
    layout = {}
    for name in _DEGREES:
        if getattr(row, name) is not None and (name != "vp" or plan.layout.pp > 1):
            layout[name] = getattr(plan.layout, name)
    if row.fsdp is not None:
        layout["dp_shard"] = plan.layout.dp_shard
    if plan.rl is None:
        layout["gpus"] = plan.layout.gpus
    workload["layout"] = layout
    return workload


def _framework_notes(row: PublishedRow, *, plan: Plan) -> Iterator[str]:
    if row.framework not in (plan.framework, _OWN_ROWS.get(plan.framework, "")):
        title = framework_title(row.framework)
        release = row.release.removeprefix(title).strip()  # some are named NeMo 25.02
        yield f"published for {title} {release}; this ran in {plan.framework}"


def _routing_notes(row: PublishedRow, *, plan: Plan) -> Iterator[str]:
    """Yield the difference between the tokens that experts get on the page and here; nothing if there is none."""
    is_balanced = row.framework in BALANCED
    if plan.model.moe is None or plan.is_router_balanced == is_balanced:
        return
    if is_balanced:
        yield "the page assigns tokens to experts evenly, and this run routes them (is_router_balanced)"
    else:
        yield "this run assigns tokens to experts evenly (is_router_balanced), and the page does not say so"


def _own_row_notes(plan: Plan) -> Iterator[str]:
    """Yield the reason why the row that a plan's recipe was made of does not judge it; nothing if it does."""
    for each in _candidates(plan):
        if not _is_made_of(each.row, plan=plan):
            continue
        reason = each.why_excluded or ", ".join(_differences(each, plan=plan))
        if reason:
            where = f"row {each.row.id} ({each.row.source} {each.row.release})"
            yield f"the recipe was made of {where}, which does not judge it: {reason}"


def _unprinted_notes(row: PublishedRow) -> Iterator[str]:
    unprinted = []
    for name, title in (("global_batch_size", "global batch"), ("micro_batch_size", "micro batch")):
        if getattr(row, name) is None:
            unprinted.append(title)
    degrees = [name for name in ("tp", "pp", "cp") if getattr(row, name) is None]
    if degrees:
        unprinted.append(", ".join(degrees))
    if not row.recompute:
        unprinted.append("recomputation")
    if row.fsdp in (None, 0):
        unprinted.append("sharding of the optimizer's states")
    if unprinted:
        yield f"not printed, so it may differ: {'; '.join(unprinted)}"


def _other_values(row: PublishedRow, *, others: Sequence[PublishedRow]) -> list[str]:
    """Return a sentence on other values that the same release prints for the same workload; none if there are none."""
    name = TOKENS_PER_SEC_PER_GPU.name
    values = []
    for other in others:
        is_same_release = (other.source, other.release) == (row.source, row.release)
        if is_same_release and other.printed.get(name) not in (None, row.printed.get(name)):
            values.append(f"{other.printed[name]} (row {other.id})")
    if not values:
        return []
    own = row.printed.get(name, "no rate")
    return [f"{row.source} printed other values of {row.release} too: {', '.join(values)} beside {own}"]


def _flops_note(row: PublishedRow, *, plan: Plan) -> str:
    """Return the reason why printed TFLOP/s don't compare; empty if they do, or are not printed."""
    if TFLOPS_PER_SEC_PER_GPU.name not in row.printed:
        return ""
    label = TFLOPS_PER_SEC_PER_GPU.label
    if plan.workload != PRETRAIN:
        return f"{label} is not compared: the page counts FLOPs of training"
    try:
        convention = row_convention(row)
    except RecipeError:
        return f"{label} is not compared: it is not known how {row.source} counts FLOPs"
    if convention == plan.flops_convention:
        return ""
    return f"{label} is not compared: the page counts FLOPs as {convention}, this as {plan.flops_convention}"


def _age(row: PublishedRow) -> tuple[str, str, str]:
    """Return the month of a row's release, its name and the row's day, for sorting.

    A release whose name is no month is as old as the page that shows it.
    """
    month = _MONTH.search(row.release)
    if month is None:
        return row.date[:7], row.release, row.date
    return f"20{month[1]}-{month[2]}", row.release, row.date
