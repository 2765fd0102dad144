"""Price of a plan before it runs: memory, traffic, FLOPs, idle time, and step time from a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from pytest_nemoperf.baselines.baseline import Baseline, find_mismatches
from pytest_nemoperf.layouts.pipeline_schedule import bubble_fraction
from pytest_nemoperf.measure.measurement import median_over_runs, workload_of
from pytest_nemoperf.models.weights import num_active_parameters, num_parameters
from pytest_nemoperf.pricing.generation_memory import GenerationMemory, generation_memory
from pytest_nemoperf.pricing.kv_copies import KVCopies, kv_copies
from pytest_nemoperf.pricing.memory import StageMemory, shown_stages, stage_memory
from pytest_nemoperf.pricing.traffic import AxisTraffic, axis_traffic
from pytest_nemoperf.recipes.memory_rules import KeptBy, MemoryRules, native_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.metrics import STEP_TIME_SEC, TOKENS_PER_SEC_PER_GPU

PRICE_SCHEMA_VERSION: Final = 1
_BYTES_PER_GB = 10**9
_SEC_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimeEstimate:
    """Time of a step and of a whole training run, from a stored baseline of the same case and workload.

    Attributes:
        recorded: Date of the baseline.
        machine: Key of the machine it was recorded on.
        num_runs: Launches it holds.
        step_time_sec: Median over them.
        tokens_per_sec_per_gpu: Median over them.
        run_tokens: Tokens of the whole training run; None if not asked for.
        run_hours: Wall time of it; None as above.
        run_gpu_hours: That times the GPUs; None as above.
    """

    recorded: str
    machine: Mapping[str, str | int]
    num_runs: int
    step_time_sec: float
    tokens_per_sec_per_gpu: float
    run_tokens: int | None = None
    run_hours: float | None = None
    run_gpu_hours: float | None = None


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
        is_fitting: The fullest rank, training or generating, fits it; None if it is unknown.
        generation: Memory of the fullest generating rank; None for a workload without generation.
        traffic: Bytes sent along each axis.
        kv_copies: Cost of key-value heads copied to several ranks; None without copies.
        expected: Step time estimated from a baseline; None without a comparable one.
        no_expectation: Reason why there is no estimate; empty if there is one.
        unsupported: Reason why the plan's framework can't run it here; None if it can.
        uncounted: Memory that is not counted or only from below, in words; empty if all is. A plan fits for sure
            only without it.
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
    unsupported: str | None = None
    memory_rules: MemoryRules | None = None
    uncounted: str = ""
    schema_version: Literal[1] = PRICE_SCHEMA_VERSION

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the fullest rank."""
        if self.generation is None or self.generation.is_colocated:
            return self.fullest.peak
        return max(self.fullest.peak, self.generation.total)

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
    run_tokens: int | None = None,
    unsupported: str | None = None,
    rules: MemoryRules | None = None,
) -> Price:
    """Return the price of a plan.

    Args:
        plan: From resolve.
        system: The plan's system.
        baseline: Stored for the case, or None.
        run_tokens: Tokens of a whole training run, for its hours; None for none.
        unsupported: Reason why the plan's framework can't run it here; None if it can.
        rules: Rules of the framework's memory; None for the native engine's.
    """
    rules = rules or native_rules(plan)
    memory = [stage_memory(plan, pp_rank=rank, rules=rules) for rank in range(plan.layout.pp)]
    fullest = max(memory, key=lambda stage: stage.peak)
    shown = sorted({*shown_stages(plan.layout), fullest.pp_rank})
    capacity = None if system.memory_gb is None else round(system.memory_gb * _BYTES_PER_GB)
    generation = generation_memory(plan)
    # Megatron-Core cuts the projection evenly where tensor parallel ranks outnumber the heads.
    copies = kv_copies(plan) if rules.kept_by is KeptBy.NATIVE else None
    expected, why_not = _estimate_step_time(plan, baseline=baseline, run_tokens=run_tokens)
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
        unsupported=unsupported,
        memory_rules=rules,
        uncounted=_uncounted(plan),
    )
    if capacity is None or (price.uncounted and price.peak_bytes <= capacity):
        return price
    return replace(price, is_fitting=price.peak_bytes <= capacity)


def _uncounted(plan: Plan) -> str:
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
    step_time = median_over_runs(baseline.runs, metric=STEP_TIME_SEC.name)
    rate = median_over_runs(baseline.runs, metric=TOKENS_PER_SEC_PER_GPU.name)
    if step_time is None or rate is None:
        return None, "the stored baseline has no step time"
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
    )
    return estimate, ""
