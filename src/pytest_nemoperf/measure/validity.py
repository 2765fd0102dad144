"""Checks of a run's step records: complete, finite, and with the expected tokens and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.measure.impossible_speed import speed_problems
from pytest_nemoperf.measure.rl_validity import rollout_problems
from pytest_nemoperf.records.step import StepRecord, measured_steps


def record_problems(expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> list[str]:
    """Return the reasons not to judge a run that lie in its records, apart from the steps' times."""
    problems = []
    total = expected.warmup_steps + expected.steps
    numbers = [record.step for record in records]
    if numbers != list(range(total)):
        problem = (
            f"{len(records)} of {total} steps were recorded "
            f"({expected.warmup_steps} warm-up and {expected.steps} measured were asked for)"
        )
        missing = min(set(range(total)) - set(numbers), default=total)
        if missing < max(numbers, default=0):
            problem += f"; step {missing} is missing, counted from 0"
        problems.append(problem)
    for name in ("loss", "grad_norm"):
        bad = []
        for record in records:
            value = getattr(record, name)
            if value is not None and not math.isfinite(value):
                bad.append(record.step)
        if bad:
            problems.append(f"{name} is not finite at step {bad[0]} ({len(bad)} of {count_text(len(records), 'step')})")
    measured = measured_steps(records, warmup_steps=expected.warmup_steps)
    problems += _rank_problems(expected, records=records)
    problems += _token_problems(expected, measured=measured)
    problems += _flops_problems(expected, measured=measured)
    problems += speed_problems(expected, measured=measured)
    problems += rollout_problems(expected, records=measured)
    if expected.rollout is None:
        problems += _unexpected_rollouts(measured)
    return problems


def _rank_problems(expected: ExpectedRecords, *, records: Sequence[StepRecord]) -> list[str]:
    """Return a problem if a step has times of more or fewer ranks than train."""
    num_ranks = expected.num_gpus
    if expected.rollout is not None:
        num_ranks = expected.rollout.num_training_gpus
    for record in records:
        for name in ("rank_times_sec", "rank_busy_sec"):
            number = len(getattr(record, name))
            if number not in (0, num_ranks):
                return [
                    f"step {record.step} has {number} {name}, and {count_text(num_ranks, 'rank')} trained; write one "
                    "time for each rank that trains, by rank, or leave them out"
                ]
    return []


def _unexpected_rollouts(measured: Sequence[StepRecord]) -> list[str]:
    for record in measured:
        if record.rollout is not None:
            return [
                f"step {record.step} has a rollout, and the recipe has no rl=, which its case needs; "
                "give the recipe rl=RL(...)"
            ]
    return []


def _token_problems(expected: ExpectedRecords, *, measured: Sequence[StepRecord]) -> list[str]:
    most = expected.tokens_per_step
    for record in measured:
        if expected.has_exact_tokens and record.tokens != most:
            source = (
                "global_batch_size*seq_len, or tokens_per_step of a loop; has_varying_lengths=True where lengths vary"
            )
            if expected.rollout is not None:
                source = "prompts and responses of pinned lengths"
            return [f"step {record.step} has {record.tokens} tokens, {most} were asked for ({source})"]
        if not expected.has_exact_tokens and expected.rollout is None and record.tokens > most:
            return [
                f"step {record.step} has {record.tokens} tokens, {most} are the most there can be "
                "(global_batch_size*seq_len, or tokens_per_step of a loop)"
            ]
    return []


def _flops_problems(expected: ExpectedRecords, *, measured: Sequence[StepRecord]) -> list[str]:
    if expected.flops_per_token is None:
        return []
    for record in measured:
        flops = expected.flops_per_token * record.tokens
        if record.flops is None or math.isclose(record.flops, flops, rel_tol=FLOPS_REL_TOL):
            continue
        if expected.has_exact_tokens or record.flops > flops:
            most = ""
            if not expected.has_exact_tokens:
                most = ", in sequences of the greatest length,"
            return [
                f"step {record.step} claims {record.flops:g} FLOPs, FLOPs per token x tokens{most} is {flops:g} "
                f"under {expected.flops_convention}"
            ]
    return []
