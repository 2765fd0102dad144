"""Reasons that make a run of reinforcement learning invalid, from its step records."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice

from pytest_nemoperf.errors import did_you_mean
from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.measure.expected_records import ExpectedRecords, ExpectedRollout
from pytest_nemoperf.measure.metric_values import rollout_values
from pytest_nemoperf.records.metrics import TOKEN_MULT_PROB_ERROR
from pytest_nemoperf.records.step import RL_PHASES, StepRecord


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
        yield (
            f"step {without[0]} lacks rollout.num_response_tokens, the tokens that were generated "
            f"({len(without)} of {len(records)} steps): with rl= in the recipe each record needs it, as in "
            '"rollout": {"num_response_tokens": 512}; see docs/frameworks.md'
        )
    for check in (_not_finite, _miscounted, _unknown_phases, _other_flops, _too_stale, _inconsistent):
        yield from islice(check(rollout, records=records), 1)


def _not_finite(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        for metric, value in rollout_values(record, rollout=rollout):
            if value is not None and not math.isfinite(value):
                yield f"{metric.name} is not finite at step {record.step}"


def _miscounted(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        stats = record.rollout
        if stats is None:
            continue
        if stats.num_samples not in (None, rollout.num_samples):
            yield f"step {record.step} has {stats.num_samples} responses, {rollout.num_samples} were asked for"
        if rollout.num_response_tokens not in (None, stats.num_response_tokens):
            yield (
                f"step {record.step} has {stats.num_response_tokens} tokens of responses, whose pinned lengths make "
                f"{rollout.num_response_tokens}; response_lengths='sampled' where they may end sooner"
            )
        if stats.num_prompt_tokens is None:
            if stats.num_response_tokens > record.tokens:
                yield (
                    f"step {record.step} has {record.tokens} tokens, but those of its responses alone are "
                    f"{stats.num_response_tokens}; tokens counts prompts and responses"
                )
            continue
        tokens = stats.num_prompt_tokens + stats.num_response_tokens
        if tokens != record.tokens:
            yield (
                f"step {record.step} has {record.tokens} tokens, but {stats.num_prompt_tokens} of prompts and "
                f"{stats.num_response_tokens} of responses are {tokens}"
            )


def _unknown_phases(_rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        for name in record.phases:
            if name not in RL_PHASES:
                yield (
                    f"step {record.step} has the phase {name!r}, which reinforcement learning does not know; "
                    f"{did_you_mean(name, RL_PHASES)}"
                )


def _other_flops(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        expected = rollout.flops_per_step
        flops = record.flops
        if expected is not None and flops is not None and not math.isclose(flops, expected, rel_tol=FLOPS_REL_TOL):
            yield f"step {record.step} claims {flops:g} FLOPs of training, samples of these lengths have {expected:g}"


def _too_stale(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        staleness = None
        if record.rollout is not None:
            staleness = record.rollout.staleness_steps
        if staleness is not None and staleness > rollout.max_staleness:
            yield (
                f"step {record.step} trains on responses of weights {staleness} steps old, "
                f"max_staleness={rollout.max_staleness}"
            )


def _inconsistent(rollout: ExpectedRollout, *, records: Sequence[StepRecord]) -> Iterator[str]:
    for record in records:
        stats = record.rollout
        if stats is None or stats.token_mult_prob_error is None:
            continue
        is_on_policy = stats.staleness_steps == 0 or (stats.staleness_steps is None and rollout.max_staleness == 0)
        if is_on_policy and stats.token_mult_prob_error > rollout.most_prob_error:
            yield (
                f"step {record.step}: {TOKEN_MULT_PROB_ERROR.name} is {stats.token_mult_prob_error:.5g} "
                f"(allowed {rollout.most_prob_error:g}): generation and training give the same tokens other "
                "probabilities, so they don't have the same weights or don't compute the same"
            )
