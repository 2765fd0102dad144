"""Price of a plan before it runs: memory, traffic, FLOPs, idle time, and step time from a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from pytest_nemoperf.baselines.baseline import Baseline, find_mismatches
from pytest_nemoperf.layouts.pipeline_schedule import bubble_fraction
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.models.weights import num_active_parameters, num_parameters
from pytest_nemoperf.pricing.generation_memory import GenerationMemory, generation_memory
from pytest_nemoperf.pricing.kv_copies import KVCopies, kv_copies
from pytest_nemoperf.pricing.memory import StageMemory, memory_of_stages, shown_stages
from pytest_nemoperf.pricing.rough_time import RoughTime, rough_time, startup_sec
from pytest_nemoperf.pricing.traffic import AxisTraffic, axis_traffic
from pytest_nemoperf.recipes.memory_rules import KeptBy, MemoryRules, native_rules
from pytest_nemoperf.recipes.recipe import Plan, Recompute
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.metrics import STEP_TIME_SEC, TOKENS_PER_SEC_PER_GPU

PRICE_SCHEMA_VERSION: Final = 1
_BYTES_PER_GB = 10**9
_SEC_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeEstimate:
    """Time of a step and of a whole training run: from a stored baseline of the same case and workload, or a page.

    Attributes:
        recorded: Date of the baseline, or of the page.
        machine: Key of the machine it was recorded on; empty for a page.
        num_runs: Launches it holds; 1 for a page.
        step_time_sec: Median over them.
        tokens_per_sec_per_gpu: Median over them.
        run_tokens: Tokens of the whole training run; None if not asked for.
        run_hours: Wall time of it; None as above.
        run_gpu_hours: That times the GPUs; None as above.
        published: Page and release that the figures are printed in; empty for a stored baseline.
    """

    recorded: str
    machine: Mapping[str, str | int]
    num_runs: int
    step_time_sec: float
    tokens_per_sec_per_gpu: float
    run_tokens: int | None = None
    run_hours: float | None = None
    run_gpu_hours: float | None = None
    published: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRange:
    """Peak memory of a plan's fullest rank over the values of settings that its recipe's source does not state.

    Attributes:
        unstated: Names of these settings: ``recompute``, ``shard_optimizer``.
        low_bytes: With full recomputation, and with optimizer states shared out where ranks hold copies of weights.
        high_bytes: Without recomputation, and with whole optimizer states on every rank that holds whole weights.
    """

    unstated: tuple[str, ...]
    low_bytes: int
    high_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A plan and its price.

    Attributes:
        plan: The plan.
        num_parameters: Parameters of the whole model.
        num_active_parameters: Parameters one token uses.
        flops_per_step: Model FLOPs of all ranks; in reinforcement learning of training on the longest responses.
        bubble_fraction: Fraction of an update a pipeline rank idles; 0 without a pipeline.
        stages: Memory of the first, a middle, the last and the fullest pipeline stage, each once.
        fullest_stage: Pipeline rank with the most memory.
        capacity_bytes: Memory of one GPU by its data sheet, in bytes; None if unknown.
        is_fitting: The fullest rank, training or generating, fits it; None if it is unknown, also where settings are
            unstated with which it may fit or not. Such a plan has run somewhere, so it is never False.
        generation: Memory of the fullest generating rank; None for a workload without generation.
        traffic: Bytes sent along each axis.
        kv_copies: Cost of key-value heads copied to several ranks; None without copies.
        expected: Step time estimated from a baseline or a published row; None without a comparable one.
        no_expectation: Reason why there is no estimate; empty if there is one.
        estimated: Step time estimated from FLOPs and bytes, where there is no other; None where it can't be either.
        startup_sec: Estimated seconds from a launch to its first step; None where they aren't known.
        unsupported: Reason why the plan's framework can't run it here; None if it can.
        memory_range: Peak memory over unstated settings; None if every setting is stated.
        uncounted: Memory that is counted from below, in words; empty if all is counted. With it a plan is never said
            to fit.
        memory_rules: Rules by which memory is counted: the framework's, or the native engine's for one without any.
    """

    plan: Plan
    num_parameters: int
    num_active_parameters: int
    flops_per_step: float
    bubble_fraction: float
    stages: tuple[StageMemory, ...]
    fullest_stage: int
    capacity_bytes: int | None
    is_fitting: bool | None
    traffic: tuple[AxisTraffic, ...]
    generation: GenerationMemory | None = None
    kv_copies: KVCopies | None = None
    expected: StepTimeEstimate | None = None
    no_expectation: str = ""
    estimated: RoughTime | None = None
    startup_sec: float | None = None
    unsupported: str | None = None
    memory_range: MemoryRange | None = None
    memory_rules: MemoryRules | None = None
    uncounted: str = ""
    schema_version: Literal[1] = PRICE_SCHEMA_VERSION

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the fullest rank, with the recipe's own value of a setting that its source does not state."""
        return _peak_bytes(self.fullest, generation=self.generation)

    @property
    def fullest(self) -> StageMemory:
        """Memory of the fullest stage."""
        ranks = [stage.pp_rank for stage in self.stages]
        return self.stages[ranks.index(self.fullest_stage)]


def price_plan(
    plan: Plan,
    *,
    system: System,
    baseline: Baseline | None,
    published: Baseline | None = None,
    run_tokens: int | None = None,
    unsupported: str | None = None,
    rules: MemoryRules | None = None,
) -> Price:
    """Return the price of a plan.

    Args:
        plan: From resolve.
        system: The plan's system.
        baseline: Stored for the case, or None.
        published: Published row that the plan matches, for the step time where none is stored; None for none.
        run_tokens: Tokens of a whole training run, for its hours; None for none.
        unsupported: Reason why the plan's framework can't run it here; None if it can.
        rules: Rules of the framework's memory; None for the native engine's.
    """
    rules = rules or native_rules(plan)
    memory = memory_of_stages(plan, rules=rules)
    fullest = max(memory, key=lambda stage: stage.peak)
    shown = sorted({*shown_stages(plan.layout), fullest.pp_rank})
    capacity = None if system.memory_gb is None else round(system.memory_gb * _BYTES_PER_GB)
    generation = generation_memory(plan)
    # Megatron-Core cuts the projection evenly where tensor parallel ranks outnumber the heads.
    copies = kv_copies(plan) if rules.kept_by is KeptBy.NATIVE else None
    expected, why_not = _estimate_step_time(plan, baseline=baseline, run_tokens=run_tokens)
    if expected is None and published is not None:
        promised, why_not_promised = _estimate_step_time(plan, baseline=published, run_tokens=run_tokens)
        expected = promised
        if promised is not None:
            why_not = ""
        elif why_not_promised != why_not:  # a session against pages gives the row as the baseline
            why_not = f"{why_not}, and {why_not_promised}"
    price = Price(
        plan=plan,
        num_parameters=num_parameters(plan.model),
        num_active_parameters=num_active_parameters(plan.model),
        flops_per_step=plan.flops_per_token * plan.tokens_per_step,
        bubble_fraction=bubble_fraction(plan.layout, num_micro_batches=plan.grad_accum_steps),
        stages=tuple(memory[rank] for rank in shown),
        fullest_stage=fullest.pp_rank,
        capacity_bytes=capacity,
        is_fitting=None,
        generation=generation,
        kv_copies=copies,
        traffic=axis_traffic(plan, stages=shown),
        expected=expected,
        no_expectation=why_not,
        estimated=rough_time(plan, system=system, generation=generation) if expected is None else None,
        startup_sec=startup_sec(plan),
        unsupported=unsupported,
        memory_rules=rules,
        uncounted=uncounted_memory(plan),
    )
    if plan.unstated:
        price = replace(price, memory_range=_memory_range(plan, rules=rules))
    return replace(price, is_fitting=_is_fitting(price))


def _is_fitting(price: Price) -> bool | None:
    capacity = price.capacity_bytes
    if capacity is None:
        return None
    if price.memory_range is None:
        if price.peak_bytes > capacity:
            return False
        return None if price.uncounted else True
    return True if price.memory_range.high_bytes <= capacity and not price.uncounted else None


def _peak_bytes(fullest: StageMemory, *, generation: GenerationMemory | None) -> int:
    if generation is None or generation.is_colocated:
        return fullest.peak
    return max(fullest.peak, generation.total)


def peak_memory_bytes(plan: Plan, *, rules: MemoryRules) -> int:
    """Return the peak memory of the fullest rank, training or generating, in bytes."""
    memory = memory_of_stages(plan, rules=rules)
    fullest = max(memory, key=lambda stage: stage.peak)
    return _peak_bytes(fullest, generation=generation_memory(plan))


def _memory_range(plan: Plan, *, rules: MemoryRules) -> MemoryRange:
    """Return the peak memory of a plan with the values of its unstated settings that take least and most."""
    peaks = []
    for is_spared in (True, False):
        changed = _with_unstated(plan, is_spared=is_spared)
        peaks.append(peak_memory_bytes(changed, rules=rules))
    return MemoryRange(unstated=plan.unstated, low_bytes=min(peaks), high_bytes=max(peaks))


def _with_unstated(plan: Plan, *, is_spared: bool) -> Plan:
    """Return a plan with its unstated settings at the end that spares memory, or at the other one."""
    layout = plan.layout
    if "shard_optimizer" in plan.unstated:
        layout = replace(layout, shard_optimizer=is_spared and layout.has_optimizer_copies)
    recompute = plan.recompute
    if "recompute" in plan.unstated:
        recompute = Recompute.FULL if is_spared else Recompute.NONE
    return replace(plan, layout=layout, recompute=recompute)


def uncounted_memory(plan: Plan) -> str:
    """Return the memory of a plan that is counted from below; empty if there is none."""
    names = []
    if plan.model.compressed_attention is not None:
        names.append("compressed attention")
    if plan.model.hyper_connections is not None:
        names.append("hyper-connections")
    if not names:
        return ""
    return (
        f"activations of {' and '.join(names)} are counted from below, as inputs and outputs of their products: what "
        "their kernels keep beside these is not known"
    )


def _estimate_step_time(
    plan: Plan, *, baseline: Baseline | None, run_tokens: int | None
) -> tuple[StepTimeEstimate | None, str]:
    """Return a plan's time from a baseline, or None and the reason why there is none."""
    if baseline is None:
        return None, "no baseline is stored for this case"
    # The estimate names the baseline's machine, so only the workload must be the same.
    if find_mismatches(baseline, machine=baseline.machine, workload=workload_of(plan)):
        return None, "the stored baseline is of another workload"
    page = baseline.published
    step_time = figure_over_runs(baseline.runs, metric=STEP_TIME_SEC.name)
    rate = figure_over_runs(baseline.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    if page is not None and step_time is None and rate is not None and plan.rl is None:
        step_time = plan.tokens_per_step / (rate * plan.layout.total_gpus)
    if step_time is None or rate is None:
        source = "the stored baseline" if page is None else f"row {page.row} of {page.title}"
        return None, f"{source} has no step time"
    run_hours = run_gpu_hours = None
    if run_tokens is not None:
        run_gpu_hours = run_tokens / rate / _SEC_PER_HOUR
        run_hours = run_gpu_hours / plan.layout.total_gpus
    estimate = StepTimeEstimate(
        recorded=baseline.provenance.date,
        machine=baseline.machine,
        num_runs=len(baseline.runs),
        step_time_sec=step_time,
        tokens_per_sec_per_gpu=rate,
        run_tokens=run_tokens,
        run_hours=run_hours,
        run_gpu_hours=run_gpu_hours,
        published="" if page is None else page.title,
    )
    return estimate, ""
