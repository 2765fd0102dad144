"""Rows of tables from stored baselines, from the results of a session, and from published pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.errors import BaselineError, RecipeError
from pytest_nemoperf.json_codec import from_data
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.stored_workload import is_in_process
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.published.row_model import row_convention
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.records.metrics import MEAN_RESPONSE_LEN, METRICS, TFLOPS_PER_SEC_PER_GPU
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.results.cases import CaseResult, SessionResults
from pytest_nemoperf.results.row import RolloutColumns, Row, RowKind, RowOrigin
from pytest_nemoperf.verdict.comparison import VerdictKind

_BACKENDS: Final[Mapping[str, str]] = {"torch": "PyTorch", "megatron": "Megatron", "dtensor": "PyTorch"}
_CONTAINER: Final = "container"


def row_of_baseline(baseline: Baseline, *, path: str) -> Row:
    """Return a stored baseline as a row; path is its file.

    Raises:
        BaselineError: If its workload is not one that this version stores.
    """
    origin = _origin(baseline.provenance, environment=baseline.environment, source=path)
    try:
        row = _row(baseline.workload, case=baseline.case, system=baseline.system, runs=baseline.runs, origin=origin)
    except BaselineError as exc:
        raise BaselineError(f"{path}: {exc}") from None
    return replace(row, flops_convention=baseline.flops_convention or "", flops_per_token=baseline.flops_per_token)


def rows_of_results(results: SessionResults, *, path: str) -> list[Row]:
    """Return the valid cases of a session as rows; path is its results file.

    Raises:
        BaselineError: If the workload of a case is not one that this version stores.
    """
    rows = []
    for case in results.cases:
        if case.verdict.kind is VerdictKind.INVALID:
            continue
        try:
            rows.append(row_of_case(case, provenance=results.provenance, path=path))
        except BaselineError as exc:
            raise BaselineError(f"{path}: {exc}") from None
    return rows


def row_of_case(case: CaseResult, *, provenance: Provenance, path: str) -> Row:
    """Return a judged case as a row; path is the results file it is from."""
    measurement = case.measurement
    origin = _origin(provenance, environment=measurement.environment, source=path)
    row = _row(
        measurement.workload,
        case=measurement.case,
        system=measurement.system,
        runs=measurement.runs,
        origin=origin,
    )
    judged = {}
    for comparison in case.verdict.comparisons:
        if not comparison.anchor:
            judged[comparison.metric] = comparison.now
    return replace(
        row,
        judged=judged,
        flops_convention=measurement.flops_convention or "",
        flops_per_token=measurement.flops_per_token,
    )


def row_of_published(published: PublishedRow, *, note: str = "") -> Row:
    """Return a published row with the figures that it prints, and a note on its validity.

    Tokens/sec/GPU are those over the step, so they count the prompts of reinforcement learning.
    """
    rollouts = published.rollouts
    columns = None
    if rollouts is not None:
        columns = RolloutColumns(
            max_staleness=rollouts.max_staleness,
            backend=rollouts.backend,
            dataset=rollouts.dataset,
            num_samples=rollouts.num_samples,
            tp=rollouts.tp,
            pp=rollouts.pp,
            dp=rollouts.dp,
            precision=rollouts.precision,
        )
    values = {}
    for name in published.printed.keys() & METRICS.keys():
        values[name] = (float(published.printed[name]),)
    if rollouts is not None:
        values[MEAN_RESPONSE_LEN.name] = (float(rollouts.mean_response_len),)
    return Row(
        case=published.id,
        system=published.system,
        workload=published.task,
        framework=published.framework,
        model=published.model,
        precision=published.precision,
        gpus=published.gpus,
        global_batch_size=published.global_batch_size,
        micro_batch_size=published.micro_batch_size,
        seq_len=published.seq_len,
        fsdp=published.fsdp,
        dp=published.dp,
        tp=published.tp,
        pp=published.pp,
        cp=published.cp,
        vp=published.vp,
        ep=published.ep,
        grad_accum_steps=published.grad_accum_steps,
        rollouts=columns,
        values=values,
        flops_convention=_convention_of_page(published) if TFLOPS_PER_SEC_PER_GPU.name in values else "",
        origin=RowOrigin(
            kind=RowKind.DRAFT if published.is_draft else RowKind.PUBLISHED,
            release=published.release,
            date=published.date,
            commit=published.commit,
            source=published.source,
            url=published.url,
            note="; ".join(filter(None, (note, published.variant, *published.notes))),
        ),
    )


def layout_label(row: Row) -> str:
    """Return the short name of a measured row's layout, as in its case id; empty for rows without one."""
    if "layout" not in row.settings or is_in_process(row.settings):
        return ""
    return from_data(Layout, row.settings["layout"], subject=f"{row.case}: layout", error=BaselineError).label


def _convention_of_page(published: PublishedRow) -> str:
    """Return the convention that a page counts FLOPs under; empty if it is not known."""
    if published.rollouts is not None:
        return ""
    try:
        return row_convention(published)
    except RecipeError:
        return ""


def _origin(provenance: Provenance, *, environment: Mapping[str, str], source: str) -> RowOrigin:
    facts = {**environment, **provenance.environment()}
    return RowOrigin(
        kind=RowKind.MEASURED,
        date=provenance.date,
        commit=facts.pop("commit", ""),
        device=facts.pop("device", ""),
        container=facts.pop(_CONTAINER, ""),
        command=provenance.command,
        versions=dict(sorted(facts.items())),
        source=source,
        note=provenance.source,
    )


def _row(workload: Mapping[str, Any], *, case: str, system: str, runs: Sequence[Run], origin: RowOrigin) -> Row:
    names: dict[str, None] = {}
    for run in runs:
        names |= dict.fromkeys(run.metrics)
    values = {}
    for name in names:
        values[name] = tuple([run.metrics[name] for run in runs if name in run.metrics])
    sessions = tuple([run.session or origin.date for run in runs])
    if not all(sessions):
        sessions = ()
    kind = str(workload.get("workload", ""))
    if "layout" not in workload or is_in_process(workload):
        return Row(
            case=case, system=system, workload=kind, framework="", model="", values=values, settings=workload,
            sessions=sessions, origin=origin,
        )  # fmt: skip
    _check_workload(workload, case=case)
    layout = from_data(Layout, workload["layout"], subject=f"{case}: layout", error=BaselineError)
    rl = None
    if "rl" in workload:
        rl = from_data(RL, workload["rl"], subject=f"{case}: rl", error=BaselineError)
    framework = str(workload["framework"])
    precision = str(workload["precision"])
    return Row(
        case=case,
        system=system,
        workload=kind,
        framework=framework,
        model=str(workload["model"]["name"]),
        precision=precision.upper().replace("_", "-"),
        gpus=layout.total_gpus,
        global_batch_size=workload["global_batch_size"],
        micro_batch_size=workload["micro_batch_size"],
        seq_len=workload["seq_len"],
        fsdp=int(layout.dp_shard > 1),
        dp=layout.dp,
        tp=layout.tp,
        pp=layout.pp,
        cp=layout.cp,
        vp=layout.vp if layout.pp > 1 else None,
        ep=layout.ep,
        grad_accum_steps=workload["global_batch_size"] // (workload["micro_batch_size"] * layout.dp),
        rollouts=None if rl is None else _rollouts(rl, layout=layout, workload=workload),
        values=values,
        settings=workload,
        sessions=sessions,
        origin=origin,
    )


def _check_workload(workload: Mapping[str, Any], *, case: str) -> None:
    """Check that a planned workload has the keys that a row shows; check_workload has checked their values.

    Raises:
        BaselineError: If one is missing.
    """
    for key in ("framework", "precision", "global_batch_size", "micro_batch_size", "seq_len", "model"):
        if key not in workload:
            raise BaselineError(f"{case}: $.workload lacks the key {key!r}; record the case again")


def _rollouts(rl: RL, *, layout: Layout, workload: Mapping[str, Any]) -> RolloutColumns:
    framework = str(workload["framework"])
    precision = str(workload["precision"])
    backend = str(workload.get("framework_options", {}).get("backend", framework))
    dataset = rl.dataset or f"as framework {framework} has it"
    if framework == "torch":
        dataset = "sums of two numbers, made from a seed"
    generation = layout.generation
    return RolloutColumns(
        max_staleness=rl.max_staleness,
        backend=_BACKENDS.get(backend, backend),
        dataset=dataset,
        num_samples=rl.num_samples,
        tp=1 if generation is None else generation.tp,
        pp=1 if generation is None else generation.pp,
        dp=None if generation is None else generation.dp,
        precision=rl.precision_of_generation(precision).upper(),
        is_pinned=rl.has_pinned_lengths,
    )
