"""Metrics of reinforcement learning from its step records, and the reasons that make a run invalid."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.measure.expected_records import ExpectedRecords, ExpectedRollout
from pytest_nemoperf.records import metrics
from pytest_nemoperf.records.metrics import BYTES_PER_GIB, FLOPS_PER_TFLOP, Metric
from pytest_nemoperf.records.step import RolloutStats, StepRecord

_TOKEN_MULT_PROB_ERROR_LIMIT: Final = 1.05
"""Above it, generation does not sample from the trained policy. NeMo RL's test suites require less than 1.05
(tests/test_suites/llm); its guide explains a lasting 1 to 2% by a fault in the weights (docs/guides/grpo.md)."""
_STATS: Mapping[Metric, Callable[[RolloutStats], float | None]] = MappingProxyType(
    {
        metrics.REFIT_GIB: lambda stats: stats.refit_bytes / BYTES_PER_GIB or None,
        metrics.REFIT_GIB_PER_SEC: lambda stats: _ratio(stats.refit_bytes / BYTES_PER_GIB, stats.refit_time_sec),
        metrics.MEAN_PROMPT_LEN: lambda stats: _ratio(stats.num_prompt_tokens, stats.num_samples),
        metrics.MEAN_RESPONSE_LEN: lambda stats: _ratio(stats.num_response_tokens, stats.num_samples),
        metrics.TRUNCATED_PCT: lambda stats: _ratio(100.0 * stats.num_truncated, stats.num_samples),
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
_LARGEST = (metrics.TOKEN_MULT_PROB_ERROR, metrics.MAX_LOGPROB_ERROR)


def rollout_metrics(expected: ExpectedRecords, *, measured: Sequence[StepRecord]) -> dict[str, float]:
    """Return the metrics of reinforcement learning alone: medians over the steps, maxima of errors.

    A metric is left out if the records lack its input: a phase, the device's peak, or FLOPs.
    """
    rollout = expected.rollout
    if rollout is None:
        return {}
    values: dict[Metric, list[float]] = {}
    for record in measured:
        for metric, value in (*_rates(record, rollout=rollout), *_described(record)):
            if value is not None and math.isfinite(value):
                values.setdefault(metric, []).append(value)
    figures = {}
    for metric, of_steps in values.items():
        combine = max if metric in _LARGEST else statistics.median
        figures[metric.name] = combine(of_steps)
    speed = figures.get(metrics.TRAINING_TFLOPS_PER_SEC_PER_GPU.name)
    if speed is not None and expected.peak_tflops is not None:
        figures[metrics.TRAINING_MFU_PCT.name] = 100.0 * speed / expected.peak_tflops
    return figures


def rollout_problems(expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> Iterator[str]:
    """Yield the reasons not to judge a run of reinforcement learning, each for its first step.

    Probabilities of generation and training are compared only for equal weights: with a staleness above 0 they differ,
    and importance sampling corrects for it.
    """
    rollout = expected.rollout
    if rollout is None:
        return
    without = [record.step for record in records if record.rollout is None]
    if without:
        yield f"step {without[0]} says nothing of what was generated ({len(without)} of {len(records)} steps)"
    for check in (_not_finite, _miscounted, _other_flops, _too_stale, _inconsistent):
        yield from islice(check(rollout, records=records), 1)


def _rates(record: StepRecord, *, rollout: ExpectedRollout) -> Iterator[tuple[Metric, float | None]]:
    """Yield the rate of each phase: tokens over its own time and GPUs."""
    phases = record.phases
    tokens = record.tokens
    num_training = rollout.num_training_gpus
    generation = 0.0
    if record.rollout is not None:
        generation = record.rollout.generation_time_sec
    logprobs = phases.get("policy_logprobs", 0.0) + phases.get("reference_logprobs", 0.0)
    training = phases.get("training", 0.0)
    yield metrics.GENERATION_TOKENS_PER_SEC_PER_GPU, _ratio(tokens, generation * rollout.num_generation_gpus)
    yield metrics.LOGPROB_TOKENS_PER_SEC_PER_GPU, _ratio(tokens, logprobs * num_training)
    yield metrics.TRAINING_TOKENS_PER_SEC_PER_GPU, _ratio(tokens, training * num_training)
    if record.flops is not None:
        yield metrics.TRAINING_TFLOPS_PER_SEC_PER_GPU, _ratio(record.flops / FLOPS_PER_TFLOP, training * num_training)


def _described(record: StepRecord) -> Iterator[tuple[Metric, float | None]]:
    """Yield the metrics that describe the rollout of a step."""
    if record.rollout is not None:
        for metric, value in _STATS.items():
            yield metric, value(record.rollout)


def _not_finite(_rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        for metric, value in _described(record):
            if value is not None and not math.isfinite(value):
                yield f"{metric.name} is not finite at step {record.step}"


def _miscounted(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        stats = record.rollout
        if stats is None:
            continue
        if stats.num_samples != rollout.num_samples:
            yield f"step {record.step} has {stats.num_samples} responses, {rollout.num_samples} were asked for"
        tokens = stats.num_prompt_tokens + stats.num_response_tokens
        if tokens != record.tokens:
            yield (
                f"step {record.step} has {record.tokens} tokens, but {stats.num_prompt_tokens} of prompts and "
                f"{stats.num_response_tokens} of responses are {tokens}"
            )


def _other_flops(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        expected = rollout.flops_per_step
        flops = record.flops
        if expected is not None and flops is not None and not math.isclose(flops, expected, rel_tol=FLOPS_REL_TOL):
            yield f"step {record.step} claims {flops:g} FLOPs of training, samples of these lengths have {expected:g}"


def _too_stale(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        if record.rollout is not None and record.rollout.staleness_steps > rollout.max_staleness:
            yield (
                f"step {record.step} trains on responses of weights {record.rollout.staleness_steps} steps old, "
                f"max_staleness={rollout.max_staleness}"
            )


def _inconsistent(_rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        stats = record.rollout
        if stats is None or stats.staleness_steps:
            continue
        if stats.token_mult_prob_error > _TOKEN_MULT_PROB_ERROR_LIMIT:
            yield (
                f"step {record.step}: {metrics.TOKEN_MULT_PROB_ERROR.name} is {stats.token_mult_prob_error:.5g} "
                f"(allowed {_TOKEN_MULT_PROB_ERROR_LIMIT:g}): generation and training give the same tokens other "
                "probabilities, so they don't have the same weights or don't compute the same"
            )


def _ratio(value: float, over: float) -> float | None:
    return value / over if over > 0 else None
