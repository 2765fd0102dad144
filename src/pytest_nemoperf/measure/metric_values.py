"""Values of the metrics of one run, from its step records or from the times of its calls.

A metric has an entry in one of the tables below: of the run, of a step of reinforcement learning, of its rollout, or of
calls. A value is None if the records lack its input: a phase, the device's peak, or FLOPs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from pytest_nemoperf.measure.expected_records import ExpectedRecords, ExpectedRollout
from pytest_nemoperf.records import metrics
from pytest_nemoperf.records.metrics import BYTES_PER_GIB, FLOPS_PER_TFLOP, Metric
from pytest_nemoperf.records.step import RolloutStats, StepRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredSteps:
    """Steps of one run after the warm-up that its plan asks for.

    Attributes:
        expected: Steps and tokens that the plan asks for.
        measured: All of these steps. Memory and lengths count over them: memory needs no warm-up, and the workload must
            not depend on the speed of a run.
        settled: Those of them that were no longer warming up; times and rates count over these.
    """

    expected: ExpectedRecords
    measured: Sequence[StepRecord]
    settled: Sequence[StepRecord]

    @property
    def has_own_lengths(self) -> bool:
        """Steps differ in length, and not because of generated responses."""
        return not self.expected.has_exact_tokens and self.expected.rollout is None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedCalls:
    """Calls of a function, or of a collective, and the work of each; None for work that it is not named by.

    Attributes:
        times: Seconds of each call that counts.
        flops: FLOPs of a call.
        num_bytes: Bytes that a call reads and writes in memory.
        message_bytes: Bytes that a collective is called with, as nccl-tests counts them; see records/collective.py.
        bus_factor: Bytes that cross the busiest link for each of these.
    """

    times: Sequence[float]
    flops: float | None = None
    num_bytes: float | None = None
    message_bytes: float | None = None
    bus_factor: float = 1.0

    @property
    def time_sec(self) -> float:
        """Median time of a call."""
        return statistics.median(self.times)


def step_values(steps: MeasuredSteps) -> dict[str, float]:
    """Return the metrics of a run's steps by name."""
    values = {}
    for metric, value_of in _OF_STEPS.items():
        value = value_of(steps)
        if value is not None:
            values[metric.name] = value
    if steps.expected.rollout is not None:
        values |= _rl_values(steps, rollout=steps.expected.rollout)
    return values


def call_values(calls: TimedCalls) -> dict[str, float]:
    """Return the metrics of timed calls by name: the median time, and the rates at which it does their work."""
    values = {}
    for metric, value_of in _OF_CALLS.items():
        value = value_of(calls)
        if value is not None:
            values[metric.name] = value
    return values


def rollout_values(record: StepRecord, *, rollout: ExpectedRollout) -> Iterator[tuple[Metric, float | None]]:
    """Yield the metrics that describe the rollout of a step; None for one that the record says nothing of."""
    if record.rollout is None:
        return
    stats = with_derived_counts(record.rollout, tokens=record.tokens, rollout=rollout)
    for metric, value_of in _OF_ROLLOUT.items():
        yield metric, value_of(stats)


def with_derived_counts(stats: RolloutStats, *, tokens: int, rollout: ExpectedRollout) -> RolloutStats:
    """Return the statistics with the counts that follow: responses as planned, prompts the rest of the tokens."""
    num_samples = stats.num_samples
    if num_samples is None:
        num_samples = rollout.num_samples
    num_prompt_tokens = stats.num_prompt_tokens
    if num_prompt_tokens is None:
        num_prompt_tokens = tokens - stats.num_response_tokens
    return replace(stats, num_samples=num_samples, num_prompt_tokens=num_prompt_tokens)


def _rl_values(steps: MeasuredSteps, *, rollout: ExpectedRollout) -> dict[str, float]:
    """Return the metrics of reinforcement learning alone: medians over the steps, maxima of errors."""
    of_steps: dict[Metric, list[float]] = {}
    for record in steps.settled:
        pairs = [(metric, value_of(record, rollout)) for metric, value_of in _OF_RL_STEP.items()]
        for metric, value in (*pairs, *rollout_values(record, rollout=rollout)):
            if value is not None and math.isfinite(value):
                of_steps.setdefault(metric, []).append(value)
    values = {}
    for metric, each in of_steps.items():
        combine = max if metric in _MAX_OVER_STEPS else statistics.median
        value = combine(each)
        if value > 0 or not metric.phases:  # a phase that takes no time has no change in percent
            values[metric.name] = value
    speed = values.get(metrics.TRAINING_TFLOPS_PER_SEC_PER_GPU.name)
    if speed is not None and steps.expected.peak_tflops is not None:
        values[metrics.TRAINING_MFU_PCT.name] = 100.0 * speed / steps.expected.peak_tflops
    return values


def _step_time(steps: MeasuredSteps) -> float:
    return statistics.median(record.step_time_sec for record in steps.settled)


def _token_rate(steps: MeasuredSteps) -> float:
    """Return tokens per second and GPU: of the median step, or of all together if steps differ in length."""
    num_gpus = steps.expected.num_gpus
    if steps.has_own_lengths:  # the median step has one of many lengths
        return sum(record.tokens for record in steps.settled) / _gpu_time(steps)
    rates = []
    for record in steps.settled:
        gpu_time = record.step_time_sec * num_gpus
        rates.append(record.tokens / gpu_time)
    return statistics.median(rates)


def _tflops_rate(steps: MeasuredSteps) -> float | None:
    """Return model TFLOP per second and GPU, over the same steps as the rate of tokens."""
    if steps.has_own_lengths:
        flops = [record.flops for record in steps.settled if record.flops is not None]
        if len(flops) < len(steps.settled):
            return None
        return math.fsum(flops) / _gpu_time(steps) / FLOPS_PER_TFLOP
    flops_per_token = steps.expected.flops_per_token
    if flops_per_token is None:
        return None
    return flops_per_token * _token_rate(steps) / FLOPS_PER_TFLOP


def _mfu_pct(steps: MeasuredSteps) -> float | None:
    tflops = _tflops_rate(steps)
    peak_tflops = steps.expected.peak_tflops
    if tflops is None or peak_tflops is None:
        return None
    return 100.0 * tflops / peak_tflops


def _gpu_time(steps: MeasuredSteps) -> float:
    return math.fsum(record.step_time_sec for record in steps.settled) * steps.expected.num_gpus


def _mean_tokens(steps: MeasuredSteps) -> float | None:
    if not steps.has_own_lengths:
        return None
    return statistics.fmean(record.tokens for record in steps.measured)


def _tokens_spread_pct(steps: MeasuredSteps) -> float | None:
    mean = _mean_tokens(steps)
    if mean is None:
        return None
    return 100.0 * statistics.pstdev([record.tokens for record in steps.measured], mu=mean) / mean


def _peak_memory_gib(steps: MeasuredSteps) -> float | None:
    peaks = [record.peak_memory_bytes for record in steps.measured if record.peak_memory_bytes is not None]
    return max(peaks) / BYTES_PER_GIB if peaks else None


def _generation_rate(record: StepRecord, rollout: ExpectedRollout) -> float | None:
    seconds = None
    if record.rollout is not None:
        seconds = record.rollout.generation_time_sec
    if seconds is None:
        seconds = record.phases.get("generation", 0.0)
    return _ratio(record.tokens, seconds * rollout.num_generation_gpus)


def _logprob_rate(record: StepRecord, rollout: ExpectedRollout) -> float | None:
    seconds = record.phases.get("policy_logprobs", 0.0) + record.phases.get("reference_logprobs", 0.0)
    return _ratio(record.tokens, seconds * rollout.num_training_gpus)


def _training_rate(record: StepRecord, rollout: ExpectedRollout) -> float | None:
    return _ratio(record.tokens, record.phases.get("training", 0.0) * rollout.num_training_gpus)


def _exposed_generation_sec(record: StepRecord, _: ExpectedRollout) -> float | None:
    return record.phases.get("exposed_generation")


def _refit_time_sec(record: StepRecord, _: ExpectedRollout) -> float | None:
    if record.rollout is not None and record.rollout.refit_time_sec is not None:
        return record.rollout.refit_time_sec
    return record.phases.get("refit")


def _training_tflops_rate(record: StepRecord, rollout: ExpectedRollout) -> float | None:
    if record.flops is None:
        return None
    return _ratio(record.flops / FLOPS_PER_TFLOP, record.phases.get("training", 0.0) * rollout.num_training_gpus)


def _ratio(value: float | None, over: float | None) -> float | None:
    """Return the quotient, or None if a part is not known or would divide by zero."""
    if value is None or over is None or over <= 0:
        return None
    return value / over


def _refit_gib(stats: RolloutStats) -> float | None:
    """Return the weights that were sent; None if none were, or it is not known."""
    if not stats.refit_bytes:
        return None
    return stats.refit_bytes / BYTES_PER_GIB


def _call_tflops_rate(calls: TimedCalls) -> float | None:
    return None if calls.flops is None else calls.flops / calls.time_sec / FLOPS_PER_TFLOP


def _gib_rate(num_bytes: float | None, *, calls: TimedCalls) -> float | None:
    return None if num_bytes is None else num_bytes / calls.time_sec / BYTES_PER_GIB


def _bus_rate(calls: TimedCalls) -> float | None:
    rate = _gib_rate(calls.message_bytes, calls=calls)
    return None if rate is None else rate * calls.bus_factor


def _truncated_pct(stats: RolloutStats) -> float | None:
    share = _ratio(stats.num_truncated, stats.num_samples)
    return None if share is None else 100.0 * share


_OF_STEPS: Mapping[Metric, Callable[[MeasuredSteps], float | None]] = MappingProxyType(
    {
        metrics.STEP_TIME_SEC: _step_time,
        metrics.TOKENS_PER_SEC_PER_GPU: _token_rate,
        metrics.TFLOPS_PER_SEC_PER_GPU: _tflops_rate,
        metrics.MFU_PCT: _mfu_pct,
        metrics.MEAN_TOKENS_PER_STEP: _mean_tokens,
        metrics.TOKENS_SPREAD_PCT: _tokens_spread_pct,
        metrics.PEAK_MEMORY_GIB: _peak_memory_gib,
    }
)
"""Metrics of every workload, over the steps of a run."""

_OF_RL_STEP: Mapping[Metric, Callable[[StepRecord, ExpectedRollout], float | None]] = MappingProxyType(
    {
        metrics.GENERATION_TOKENS_PER_SEC_PER_GPU: _generation_rate,
        metrics.LOGPROB_TOKENS_PER_SEC_PER_GPU: _logprob_rate,
        metrics.TRAINING_TOKENS_PER_SEC_PER_GPU: _training_rate,
        metrics.TRAINING_TFLOPS_PER_SEC_PER_GPU: _training_tflops_rate,
        metrics.EXPOSED_GENERATION_SEC: _exposed_generation_sec,
        metrics.REFIT_TIME_SEC: _refit_time_sec,
    }
)
"""Phases of reinforcement learning: rates, which are tokens over a phase's own time and GPUs, and times."""

_OF_ROLLOUT: Mapping[Metric, Callable[[RolloutStats], float | None]] = MappingProxyType(
    {
        metrics.REFIT_GIB: _refit_gib,
        metrics.REFIT_GIB_PER_SEC: lambda stats: _ratio(_refit_gib(stats), stats.refit_time_sec),
        metrics.MEAN_PROMPT_LEN: lambda stats: _ratio(stats.num_prompt_tokens, stats.num_samples),
        metrics.MEAN_RESPONSE_LEN: lambda stats: _ratio(stats.num_response_tokens, stats.num_samples),
        metrics.TRUNCATED_PCT: _truncated_pct,
        metrics.STALENESS_STEPS: lambda stats: stats.staleness_steps,
        metrics.BATCH_FILL_PCT: lambda stats: stats.batch_fill_pct,
        metrics.GENERATION_IMBALANCE_PCT: lambda stats: stats.imbalance_pct,
        metrics.NUM_ROUNDS: lambda stats: stats.num_rounds,
        metrics.REWARD_MEAN: lambda stats: stats.reward_mean,
        metrics.TOKEN_MULT_PROB_ERROR: lambda stats: stats.token_mult_prob_error,
        metrics.MAX_LOGPROB_ERROR: lambda stats: stats.max_logprob_error,
        metrics.KL: lambda stats: stats.kl,
    }
)
"""Metrics that describe the rollouts of reinforcement learning."""

_OF_CALLS: Mapping[Metric, Callable[[TimedCalls], float | None]] = MappingProxyType(
    {
        metrics.TIME_PER_CALL_SEC: lambda calls: calls.time_sec,
        metrics.CALL_TFLOPS_PER_SEC: _call_tflops_rate,
        metrics.CALL_GIB_PER_SEC: lambda calls: _gib_rate(calls.num_bytes, calls=calls),
        metrics.ALGORITHM_GIB_PER_SEC: lambda calls: _gib_rate(calls.message_bytes, calls=calls),
        metrics.BUS_GIB_PER_SEC: _bus_rate,
    }
)
"""Metrics of timed calls: of benchmark tests, and of collectives."""

_MAX_OVER_STEPS = (metrics.TOKEN_MULT_PROB_ERROR, metrics.MAX_LOGPROB_ERROR)
