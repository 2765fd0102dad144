"""Values of the metrics of a launch that its step records don't hold: energy, start-up, compilation, checkpoints."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterator, Mapping

from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.measure.metric_values import MeasuredSteps
from pytest_nemoperf.records import metrics
from pytest_nemoperf.records.launch_times import CheckpointTimes
from pytest_nemoperf.records.metrics import BYTES_PER_GIB, Metric
from pytest_nemoperf.records.step import RunOutput, StepRecord


def launch_values(
    output: RunOutput,
    *,
    steps: MeasuredSteps,
    tokens_per_sec_per_gpu: float | None,
) -> dict[str, float]:
    """Return the metrics of a launch beside those of its steps, by name; without those that are not known.

    Args:
        output: Records, health and times of the launch.
        steps: Its measured steps.
        tokens_per_sec_per_gpu: Rate of these; None if they have none.
    """
    values: dict[str, float] = {}
    if tokens_per_sec_per_gpu is not None:
        values |= _energy_values(output, tokens_per_sec=tokens_per_sec_per_gpu * steps.expected.num_gpus)
    asked = steps.expected.extra_metrics
    start = output.start
    if metrics.TIME_TO_FIRST_STEP_SEC.name in asked and start is not None and start.first_step_sec is not None:
        values[metrics.TIME_TO_FIRST_STEP_SEC.name] = start.first_step_sec
    if metrics.COMPILE_TIME_SEC.name in asked and steps.expected.may_compile:
        values[metrics.COMPILE_TIME_SEC.name] = _compile_time_sec(output, steps=steps)
    if output.checkpoint is not None:
        for metric, value in _checkpoint_values(output.checkpoint, asked=asked):
            values[metric.name] = value
    return {name: value for name, value in values.items() if value > 0}


def unknown_values(output: RunOutput, *, values: Mapping[str, float], expected: ExpectedRecords) -> dict[str, str]:
    """Return the reason for each metric of a launch that it lacks, by name.

    Args:
        output: Records, health and times of the launch.
        values: From launch_values.
        expected: Extra metrics of the plan.
    """
    reasons: dict[str, str] = {}
    energy = None if output.health is None else output.health.energy
    if energy is not None and energy.problem:
        reasons |= {metric.name: energy.problem for metric in metrics.ENERGY_METRICS}
    for name in expected.extra_metrics:
        if name in values:
            continue
        reasons[name] = "the ranks have left no time of it"
        if name == metrics.TIME_TO_FIRST_STEP_SEC.name:
            reasons[name] = "no step was seen to end while the run went on"
        elif name == metrics.COMPILE_TIME_SEC.name and expected.may_compile:
            reasons[name] = "the first steps took no longer than the later ones: nothing was compiled in them"
        elif name == metrics.COMPILE_TIME_SEC.name:
            reasons[name] = "the recipe has is_compiled=False"
    return reasons


def _energy_values(output: RunOutput, *, tokens_per_sec: float) -> dict[str, float]:
    """Return the energy of a token: mean power within the measured steps, over the rate of tokens.

    Readings don't fall on the ends of steps, so neither their energy nor their time is that of a number of tokens; the
    power between them is that of the steps.
    """
    energy = None if output.health is None else output.health.energy
    if energy is None or energy.joules is None:
        return {}
    joules_per_token = energy.joules / energy.seconds / tokens_per_sec
    return {
        metrics.JOULES_PER_TOKEN.name: joules_per_token,
        metrics.TOKENS_PER_JOULE.name: 1.0 / joules_per_token,
    }


def _compile_time_sec(output: RunOutput, *, steps: MeasuredSteps) -> float:
    """Return the excess of the warm-up steps over the median measured step, on the slowest rank of each.

    Compilation happens in the first pass of a block, forward and backward, and torch has no public counter of it. What
    else a first step does (memory pools, communicators, loaded kernels) is in the excess.
    """
    usual = statistics.median(record.step_time_sec for record in steps.settled)
    excess = 0.0
    for record in _warmup_of(output, steps=steps):
        excess += max(0.0, record.step_time_sec - usual)
    return excess


def _warmup_of(output: RunOutput, *, steps: MeasuredSteps) -> Iterator[StepRecord]:
    for record in output.records:
        if record.step < steps.expected.warmup_steps:
            yield record


def _checkpoint_values(times: CheckpointTimes, *, asked: Collection[str]) -> Iterator[tuple[Metric, float]]:
    """Yield the metrics of a checkpoint: the times that were asked for, its size, and its speed."""
    size_gib = times.num_bytes / BYTES_PER_GIB
    seconds: list[tuple[Metric, float | None, Metric | None]] = [
        (metrics.CHECKPOINT_SAVE_SEC, times.save_sec, metrics.CHECKPOINT_SAVE_GIB_PER_SEC),
        (metrics.CHECKPOINT_ASYNC_SAVE_SEC, times.async_wait_sec, None),
        (metrics.CHECKPOINT_LOAD_SEC, times.load_sec, metrics.CHECKPOINT_LOAD_GIB_PER_SEC),
    ]
    for metric, value, speed in seconds:
        if value and metric.name in asked:
            yield metric, value
            if speed is not None:
                yield speed, size_gib / value
    if times.async_total_sec and metrics.CHECKPOINT_ASYNC_SAVE_SEC.name in asked:
        yield metrics.CHECKPOINT_ASYNC_TOTAL_SEC, times.async_total_sec
    yield metrics.CHECKPOINT_GIB, size_gib
