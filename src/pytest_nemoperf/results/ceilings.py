"""Ceilings of a machine: the rates that its stored kernels and collectives reach; how near a case comes to them. Pure.

They are derived from stored baselines, so that there is one truth: a ceiling is as old, and as noisy, as its baseline.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.kernel import shape_text
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.stored_workload import BENCHMARK
from pytest_nemoperf.pricing.memory import memory_of_stages
from pytest_nemoperf.recipes.recipe import Plan, Precision
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.records.collective import COLLECTIVE
from pytest_nemoperf.records.figures import Amount, Count, Positive, Size
from pytest_nemoperf.records.metrics import (
    BUS_GIB_PER_SEC,
    BYTES_PER_GIB,
    CALL_GIB_PER_SEC,
    CALL_TFLOPS_PER_SEC,
    METRICS,
    MFU_PCT,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TRAINING_MFU_PCT,
    TRAINING_TFLOPS_PER_SEC_PER_GPU,
    format_number,
)
from pytest_nemoperf.verdict.workload import facts_of

CALL_CASES: Final = ("bench-", "collective-")
"""Beginnings of the case ids of kernels and collectives."""
PRODUCTS: Final = ("gemm", "transformer_engine_linear")
"""Kernels whose highest rate is the ceiling of matrix products."""
COPY: Final = "memory_copy"
_RATES: Final = (CALL_TFLOPS_PER_SEC, CALL_GIB_PER_SEC, BUS_GIB_PER_SEC)
_OPTIMIZER_BYTES: Final = 28
"""Per parameter of the native engine's AdamW: fp32 weight, gradient and two moments are read, three of them written."""
_RECORD: Final = "pytest -m perf -k test_kernels records it (docs/ceilings.md)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """Rate that a stored kernel or collective reaches on a machine.

    Attributes:
        kernel: Kernel or collective.
        dtype: Type of numbers; empty if not stated.
        shape: Its shape, or the message of a collective, as text.
        num_gpus: GPUs or ranks that take part.
        threads: Threads of a kernel on a CPU; 0 if not stated, as on GPUs.
        metric: Metric of the rate.
        rate: The rate over the runs, in the metric's unit.
        spread_pct: (max - min) / median over the runs, percent; None for a single one.
        num_runs: Runs of the baseline.
        case: Case id.
        source: File of the baseline.
        date: Time of its runs, ISO 8601.
    """

    kernel: str
    dtype: str
    shape: str
    num_gpus: Size
    metric: str
    rate: Positive
    num_runs: Size
    case: str
    source: str
    date: str
    threads: Count = 0
    spread_pct: Amount | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtCeiling:
    """Nearness of a case to the ceilings of its machine; unknown parts are None.

    Attributes:
        products: Ceiling of matrix products in the case's precision.
        copy: Ceiling of memory.
        products_pct: Model TFLOP/s per GPU in percent of the products' ceiling; of training alone in reinforcement
            learning.
        products_sec: Seconds that a step's model FLOPs take at that rate.
        optimizer_sec: Seconds that the optimizer's bytes take at the rate of a copy, on the fullest rank.
        step_pct: Both in percent of the step time: its share at the ceiling.
        why_none: Reason that there is no ceiling of products; empty if there is one.
    """

    products: Ceiling | None = None
    copy: Ceiling | None = None
    products_pct: Amount | None = None
    products_sec: Amount | None = None
    optimizer_sec: Amount | None = None
    step_pct: Amount | None = None
    why_none: str = ""


def ceiling_of(baseline: Baseline, *, source: str) -> Ceiling | None:
    """Return the ceiling that a stored baseline shows; None for other cases, and for one that states no rate."""
    workload = baseline.workload
    kind = workload.get("workload")
    name = ""
    shape = ""
    num_gpus = 1
    if kind == BENCHMARK:
        name = str(workload.get("kernel", ""))
        shape = shape_text(workload.get("shape"))
    elif kind == COLLECTIVE:
        name = str(workload.get("collective", ""))
        num_gpus = workload.get("num_gpus", 1)
        shape = f"{workload.get('size_bytes', 0) / 2**20:g} MiB over {num_gpus} ranks"
    for metric in _RATES:
        rate = figure_over_runs(baseline.runs, metric=metric.name)
        if name and rate is not None:
            values = [run.metrics[metric.name] for run in baseline.runs if metric.name in run.metrics]
            return Ceiling(
                kernel=name,
                dtype=str(workload.get("dtype", "")),
                shape=shape,
                num_gpus=num_gpus,
                threads=workload.get("threads", 0),
                metric=metric.name,
                rate=rate,
                spread_pct=_spread_pct(values),
                num_runs=len(baseline.runs),
                case=baseline.case,
                source=source,
                date=baseline.provenance.date,
            )
    return None


def highest(
    ceilings: Iterable[Ceiling], *, kernels: Sequence[str], dtype: str = "", threads: int = 0
) -> Ceiling | None:
    """Return the ceiling of the highest rate among kernels; None without one.

    Args:
        ceilings: Ceilings of the machine.
        kernels: Names of the kernels.
        dtype: Type of numbers; empty for any.
        threads: Threads of a rank on a CPU; 0 on GPUs.
    """
    best = None
    for each in ceilings:
        is_wanted = each.kernel in kernels and each.threads == threads and dtype in ("", each.dtype)
        if is_wanted and (best is None or each.rate > best.rate):
            best = each
    return best


def at_ceiling(
    plan: Plan, *, runs: Sequence[Run], ceilings: Sequence[Ceiling], machine: Mapping[str, str | int]
) -> AtCeiling | None:
    """Return the nearness of a plan's runs to the ceilings of their machine; None for runs without TFLOP/s.

    Args:
        plan: Plan of the runs.
        runs: Its runs.
        ceilings: Ceilings of the machine.
        machine: Key of the machine, for its cores.
    """
    is_rl = plan.rl is not None
    metric = TRAINING_TFLOPS_PER_SEC_PER_GPU if is_rl else TFLOPS_PER_SEC_PER_GPU
    tflops = figure_over_runs(runs, metric=metric.name)
    if tflops is None:
        return None
    dtype = plan.precision.number_format
    threads = threads_of_rank(machine, num_ranks=plan.layout.total_gpus) if plan.device == "cpu" else 0
    products = highest(ceilings, kernels=PRODUCTS, dtype=dtype, threads=threads)
    if products is None:
        return AtCeiling(why_none=why_none(dtype=dtype, threads=threads))
    near = AtCeiling(products=products, products_pct=100.0 * tflops / products.rate)
    step_sec = figure_over_runs(runs, metric=STEP_TIME_SEC.name)
    if is_rl or step_sec is None:  # the forward passes of generation and log-probabilities are no model FLOPs
        return near
    products_sec = tflops / products.rate * step_sec
    copy = highest(ceilings, kernels=(COPY,), threads=threads)
    optimizer_sec = None
    if copy is not None and plan.framework == NATIVE:
        num_parameters = max(stage.num_parameters for stage in memory_of_stages(plan))
        optimizer_sec = num_parameters * _OPTIMIZER_BYTES / BYTES_PER_GIB / copy.rate
    return AtCeiling(
        products=products,
        copy=copy,
        products_pct=near.products_pct,
        products_sec=products_sec,
        optimizer_sec=optimizer_sec,
        step_pct=100.0 * (products_sec + (optimizer_sec or 0.0)) / step_sec,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OfProducts:
    """A stored case beside the ceiling of products of its machine.

    Attributes:
        case: Case id.
        tflops: Model TFLOP/s per GPU; of training alone in reinforcement learning.
        mfu_pct: Percent of the data sheet's peak; None if that is unknown.
        products_pct: Percent of the products' ceiling; None if there is none in the case's precision.
    """

    case: str
    tflops: Positive
    mfu_pct: Amount | None
    products_pct: Amount | None


def share_of_products(baseline: Baseline, *, ceilings: Sequence[Ceiling]) -> OfProducts | None:
    """Return a stored case of a plan beside its machine's ceilings; None for one without TFLOP/s or precision."""
    workload = baseline.workload
    is_rl = "rl" in workload
    metric = TRAINING_TFLOPS_PER_SEC_PER_GPU if is_rl else TFLOPS_PER_SEC_PER_GPU
    tflops = figure_over_runs(baseline.runs, metric=metric.name)
    if tflops is None or "precision" not in workload:
        return None
    threads = 0
    if "cores" in baseline.machine:
        num_ranks = facts_of(workload, convention=None).num_gpus or 1
        threads = threads_of_rank(baseline.machine, num_ranks=num_ranks)
    dtype = Precision(workload["precision"]).number_format
    products = highest(ceilings, kernels=PRODUCTS, dtype=dtype, threads=threads)
    mfu = TRAINING_MFU_PCT if is_rl else MFU_PCT
    return OfProducts(
        case=baseline.case,
        tflops=tflops,
        mfu_pct=figure_over_runs(baseline.runs, metric=mfu.name),
        products_pct=None if products is None else 100.0 * tflops / products.rate,
    )


def why_none(*, dtype: str, threads: int) -> str:
    """Return the reason that a case has no ceiling of products."""
    with_threads = ""
    if threads:
        with_threads = f" with {threads} threads, which a rank of this case has," if threads > 1 else " with one thread"
    return f"no product in {dtype}{with_threads} is stored of this machine; {_RECORD}"


def threads_of_rank(machine: Mapping[str, str | int], *, num_ranks: int) -> int:
    """Return the threads that each rank of the native engine has on a CPU."""
    return max(1, int(machine.get("cores", 1)) // num_ranks)


def _spread_pct(values: Sequence[float]) -> float | None:
    if len(values) < 2:  # noqa: PLR2004 (a single value has no spread)
        return None
    return 100.0 * (max(values) - min(values)) / statistics.median(values)


def rate_text(ceiling: Ceiling) -> str:
    """Return the rate with its unit: ``749 TFLOP/s``."""
    return f"{format_number(ceiling.rate)} {METRICS[ceiling.metric].unit}"
