"""Measurements from step records: warm-up dropped, slowest rank, medians over steps, reasons of an invalid run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import PurePath
from typing import Any

from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.json_codec import plain_mapping, to_data
from pytest_nemoperf.measure.expected_records import ExpectedRecords, expected_of
from pytest_nemoperf.measure.launch_values import launch_values, unknown_values
from pytest_nemoperf.measure.metric_values import MeasuredSteps, step_values
from pytest_nemoperf.measure.rank_times import rank_busy_sec, rank_spread_pct
from pytest_nemoperf.measure.steady_state import (
    Drift,
    is_same_drift,
    mad_pct,
    num_outliers,
    num_still_warming,
    run_drift,
    settling_times,
    slow_steps_pct,
)
from pytest_nemoperf.measure.validity import record_problems
from pytest_nemoperf.recipes.recipe import PLACE_OPTIONS, Plan
from pytest_nemoperf.records.figures import Amount, Change, Count, Finite, Positive
from pytest_nemoperf.records.health import energy_noise_pct, gpu_powers_w, health_problems, sm_clocks_mhz
from pytest_nemoperf.records.metrics import (
    FLOPS_PER_TFLOP,
    JOULES_PER_TOKEN,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
)
from pytest_nemoperf.records.step import RunOutput, StepRecord, measured_steps
from pytest_nemoperf.records.tracers import TRACERS, tracer_problems
from pytest_nemoperf.records.yardstick import Yardstick, mean_yardstick


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The numbers of one launch.

    Attributes:
        metrics: Medians over the measured steps, by metric name; over all steps together for rates of steps that
            differ in length.
        phases: Median seconds per step by phase on the slowest rank.
        groups: The same for each group of ranks beside the training ranks, by group name.
        num_steps: Measured steps that count.
        num_warmup_dropped: Steps after the plan's warm-up that were still warming up, and don't count.
        num_outliers: Slow steps among those that count; medians hide them.
        slow_steps_pct: Excess of the mean of all measured steps, dropped ones too, over the median of those that count
            (over their mean if lengths differ), percent; None if not recorded.
        last_step: Index of the last step; losses compare only at the same one.
        step_time_mad_pct: Median absolute deviation of the step times, percent of their median.
        drift_pct: Change of the step time from first to last on a restless machine, percent; None for a settled run.
        rank_spread_pct: Median over steps of (slowest - fastest rank) / slowest, percent; None for one rank.
        rank_busy_sec: Median over steps of each rank's time without waiting for others, by rank.
        sm_clock_mhz: Median clock of each rank's GPU, by rank.
        gpu_power_w: Median power of each rank's GPU, by rank.
        hosts: Name of each rank's host, by rank; not stored.
        yardsticks: Times of the fixed workload on each rank, by rank: geometric means of before and after the steps;
            empty if not timed.
        session: Start of the session that launched it, in ISO 8601; empty if not recorded. Runs of equal text are of
            one session.
        loss: Loss of the last step; None if not recorded.
        grad_norm: Gradient norm of the last step; None if not recorded.
        energy_noise_pct: Standard deviation of the energy by the age of its readings, percent; None if it is not known.
        unknown: Reason for each metric of the launch that is not known, by name; not stored.
    """

    metrics: Mapping[str, Finite]
    phases: Mapping[str, Amount] = field(default_factory=dict)
    groups: Mapping[str, Mapping[str, Amount]] = field(default_factory=dict)
    num_steps: Count
    num_warmup_dropped: Count = 0
    num_outliers: Count = 0
    slow_steps_pct: Change | None = None
    last_step: Count | None = None
    step_time_mad_pct: Change
    drift_pct: Change | None = None
    rank_spread_pct: Change | None = None
    rank_busy_sec: tuple[Amount, ...] = ()
    sm_clock_mhz: tuple[Amount, ...] = ()
    gpu_power_w: tuple[Amount, ...] = ()
    hosts: tuple[str, ...] = ()
    yardsticks: tuple[Yardstick, ...] = ()
    session: str = ""
    loss: Finite | None = None
    grad_norm: Amount | None = None
    energy_noise_pct: Change | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One launch: its numbers, and every reason not to judge them.

    Attributes:
        run: Numbers of the measured steps; None if there are none.
        drift: Drift of the steps; None if they have settled.
        earlier_drifts: Drift of each dropped try of this launch; None for a try that had settled.
        record_problems: Records that are incomplete or impossible.
        health_problems: Signs that the machine was slowed, broken or shared.
        environment: Versions and settings seen inside the ranks.
    """

    run: Run | None
    drift: Drift | None = None
    earlier_drifts: tuple[Drift | None, ...] = ()
    record_problems: tuple[str, ...] = ()
    health_problems: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """Reasons not to judge its numbers, those of the machine apart."""
        return [*self.record_problems, *drift_problems(self.drift, earlier=self.earlier_drifts)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The numbers of this session's runs of one case.

    Attributes:
        case: Case id.
        system: System name.
        workload: The workload as plain data: two measurements compare only if it is equal. Tuples become lists, as in
            a stored file.
        runs: One entry per launch.
        environment: Versions and settings inside the processes that ran the steps.
        flops_per_token: Model FLOPs per token, None if FLOPs are not known.
        flops_convention: Name of the FLOPs convention.
        problems: Reasons that make the measurement INVALID; empty for a sound one.
        inject_pct: Self-test delay, percent; a measurement with one is never stored.

    Raises:
        RecipeError: If the workload holds a value without a JSON form.
    """

    case: str
    system: str
    workload: Mapping[str, Any]
    runs: tuple[Run, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    flops_per_token: Positive | None = None
    flops_convention: str | None = None
    problems: tuple[str, ...] = ()
    inject_pct: Change = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "workload", plain_mapping(self.workload, subject="workload"))


def workload_of(plan: Plan) -> dict[str, Any]:
    """Return the workload of a plan: the keys that must be equal to compare; the number of steps is none.

    Raises:
        RecipeError: If the plan holds a value without a JSON form.
    """
    keys = (
        "workload",
        "framework",
        "model",
        "precision",
        "seq_len",
        "global_batch_size",
        "micro_batch_size",
        "layout",
        "recompute",
        "is_compiled",
        "is_router_balanced",
        "seed",
        "command",
    )
    data = to_data(plan)
    workload = {key: data[key] for key in keys}
    workload["model"] = _without_defaults(plan.model)
    if plan.rl is not None:
        workload["rl"] = _without_defaults(plan.rl)
    if plan.has_varying_lengths:
        workload["has_varying_lengths"] = True
    if plan.framework_config:
        workload["framework_config"] = {
            "name": PurePath(plan.framework_config).name,
            "digest": plan.framework_config_digest,
        }
    options = {key: value for key, value in data["framework_options"].items() if key not in PLACE_OPTIONS}
    if options:
        workload["framework_options"] = options
    if plan.log_format:
        workload["log_format"] = data["log_format"]
    if plan.is_command_per_rank:
        workload["is_command_per_rank"] = True
    return plain_mapping(workload, subject=f"workload of {plan.case}")


def _without_defaults(part: Any) -> dict[str, Any]:
    """Return the fields that differ from their default, so that later fields leave stored baselines comparable."""
    values = {}
    for item in fields(part):
        value = getattr(part, item.name)
        if value != item.default:
            values[item.name] = _without_defaults(value) if is_dataclass(value) else to_data(value)
    return values


def measure_run(expected: ExpectedRecords, output: RunOutput) -> MeasuredRun:
    """Return the numbers of a launch and every reason not to judge them.

    Args:
        expected: Steps and tokens that the plan asks for.
        output: Records and machine health of the launch.
    """
    drift = run_drift(expected, records=output.records)
    measured = measured_steps(output.records, warmup_steps=expected.warmup_steps)
    run: Run | None = None
    if measured:
        run = _run_of(expected, output=output, measured=measured, drift=drift)
        run = replace(
            run,
            hosts=output.hosts,
            sm_clock_mhz=sm_clocks_mhz(output.health),
            gpu_power_w=tuple(map(round_significant, gpu_powers_w(output.health))),
            yardsticks=_mean_yardsticks(output),
        )
    return MeasuredRun(
        run=run,
        drift=drift,
        record_problems=tuple(record_problems(expected, records=output.records)),
        health_problems=tuple(health_problems(output.health)),
        environment=output.environment,
    )


def measurement_of(plan: Plan, *, runs: Sequence[MeasuredRun], problem: str = "") -> Measurement:
    """Return the measurement of a case from its measured runs, in the order of their launches.

    Args:
        plan: Plan of the case.
        runs: Its runs.
        problem: Reason that there are no more of them, which makes the measurement INVALID; empty if it is complete.
    """
    expected = expected_of(plan)
    flops_per_token = None
    if expected.has_exact_tokens:
        flops_per_token = expected.flops_per_token
    environment: dict[str, str] = {}
    measured: list[Run] = []
    problems: list[str] = [problem] if problem else []
    unhealthy: list[str] = []
    for number, run in enumerate(runs, start=1):
        environment |= run.environment
        problems += [f"run {number}: {problem}" for problem in run.problems]
        unhealthy += [f"run {number}: {problem}" for problem in run.health_problems]
        if run.run is not None:
            measured.append(run.run)
    if TRACERS in environment:
        problems += tracer_problems([environment[TRACERS]])
    return Measurement(
        case=plan.case,
        system=plan.system,
        workload=workload_of(plan),
        runs=tuple(measured),
        environment=environment,
        flops_per_token=flops_per_token,
        flops_convention=plan.flops_convention,
        problems=(*problems, *unhealthy),
        inject_pct=plan.inject_pct,
    )


def measure_outputs(plan: Plan, *, outputs: Sequence[RunOutput]) -> Measurement:
    """Return the measurement of a case from the records of its runs."""
    expected = expected_of(plan)
    runs = [measure_run(expected, output) for output in outputs]
    return measurement_of(plan, runs=runs)


def drift_problems(drift: Drift | None, *, earlier: Sequence[Drift | None]) -> list[str]:
    """Return a problem if a run and all its earlier tries drift the same way: then the workload itself does.

    Args:
        drift: Drift of the run; None if it has settled.
        earlier: Drift of each dropped try; None for one that had settled.
    """
    if drift is None or not is_same_drift([*earlier, drift]):
        return []
    if not earlier:
        return [drift.text]
    return [f"{drift.text}; so in {len(earlier) + 1} of as many tries"]


def _run_of(
    expected: ExpectedRecords, *, output: RunOutput, measured: Sequence[StepRecord], drift: Drift | None
) -> Run:
    """Return the numbers of one run; steps that were still warming up are dropped."""
    settling = settling_times(measured, has_exact_tokens=expected.has_exact_tokens)
    dropped = num_still_warming(settling)
    steps = MeasuredSteps(expected=expected, measured=measured, settled=measured[dropped:])
    slow_pct = slow_steps_pct(settling, num_dropped=dropped, is_summed=steps.has_own_lengths)
    measured = steps.settled
    times = [record.step_time_sec for record in measured]
    drift_pct = None
    if drift is not None:
        drift_pct = round_significant(drift.pct, digits=3)
    last = measured[-1]
    values = step_values(steps)
    beside = launch_values(output, steps=steps, tokens_per_sec_per_gpu=values.get(TOKENS_PER_SEC_PER_GPU.name))
    return Run(
        metrics=_rounded({**values, **beside}),
        phases=_rounded(_medians([record.phases for record in measured])),
        groups=_group_medians(measured),
        num_steps=len(measured),
        num_warmup_dropped=dropped,
        num_outliers=num_outliers(settling_times(measured, has_exact_tokens=expected.has_exact_tokens)),
        slow_steps_pct=round_significant(slow_pct, digits=3),
        last_step=last.step,
        step_time_mad_pct=round_significant(mad_pct(times), digits=3),
        drift_pct=drift_pct,
        rank_spread_pct=_rounded_or_none(rank_spread_pct(measured), digits=3),
        rank_busy_sec=tuple(map(round_significant, rank_busy_sec(measured))),
        loss=_rounded_or_none(last.loss),
        grad_norm=_rounded_or_none(last.grad_norm),
        energy_noise_pct=energy_noise_pct(output.health) if JOULES_PER_TOKEN.name in beside else None,
        unknown=unknown_values(output, values=beside, expected=expected),
    )


def _mean_yardsticks(output: RunOutput) -> tuple[Yardstick, ...]:
    """Return the yardstick of each rank over the run, rounded; empty unless it was timed at both ends."""
    means = []
    for before, after in zip(output.yardsticks_before, output.yardsticks_after, strict=False):
        means.append(mean_yardstick(before, after))
    return tuple(means)


def identity_problem(run: Run, *, flops_per_token: float | None) -> str | None:
    """Return a sentence if TFLOP/s is not FLOPs per token x tokens/s, the identity of every stored run."""
    tflops = run.metrics.get(TFLOPS_PER_SEC_PER_GPU.name)
    tokens_rate = run.metrics.get(TOKENS_PER_SEC_PER_GPU.name)
    if tflops is None or tokens_rate is None or flops_per_token is None:
        return None
    expected = flops_per_token * tokens_rate / FLOPS_PER_TFLOP
    if math.isclose(tflops, expected, rel_tol=FLOPS_REL_TOL):
        return None
    return (
        f"tflops_per_sec_per_gpu={tflops:g} is not FLOPs per token x tokens/sec/GPU = "
        f"{flops_per_token:g} x {tokens_rate:g} = {expected:g}"
    )


def round_significant(value: float, *, digits: int = 6) -> float:
    """Return value rounded to significant digits, for small diffs of stored files."""
    return float(f"{value:.{digits}g}")


def _group_medians(measured: Sequence[StepRecord]) -> dict[str, dict[str, float]]:
    phases: dict[str, list[Mapping[str, float]]] = {}
    for record in measured:
        for name, group in record.groups.items():
            phases.setdefault(name, []).append(group.phases)
    medians = {}
    for name, each in phases.items():
        medians[name] = _rounded(_medians(each))
    return medians


def _medians(phases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each phase; a missing phase took no time."""
    names: dict[str, None] = {}
    for each in phases:
        names |= dict.fromkeys(each)
    medians = {}
    for name in names:
        medians[name] = statistics.median([each.get(name, 0.0) for each in phases])
    return medians


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Return rounded values, without those that are not finite: they make the run INVALID, and have no form in JSON."""
    return {name: round_significant(value) for name, value in values.items() if math.isfinite(value)}


def _rounded_or_none(value: float | None, *, digits: int = 6) -> float | None:
    """Return a rounded value; None for a missing one, or one that is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return round_significant(value, digits=digits)
