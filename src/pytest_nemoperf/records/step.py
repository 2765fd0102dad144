"""Files of a run: step records, progress, result, errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.records.figures import Amount, Count
from pytest_nemoperf.records.health import HealthReport
from pytest_nemoperf.records.launch_times import CheckpointTimes, StartTimes
from pytest_nemoperf.records.yardstick import Yardstick

RECORD_SCHEMA_VERSION: Final = 1
PLAN_FILE = "plan.json"
STEPS_FILE = "steps.jsonl"
RESULT_FILE = "result.json"
PROGRESS_FILE = "progress.jsonl"
PRETRAIN_PHASES = ("data", "forward", "backward", "pipeline_wait", "grad_comm", "optimizer", "other")
"""Phases of a pre-training step in order; ``grad_comm`` is the exposed part of gradient communication, and
``pipeline_wait`` the time a pipeline stage waits for others: its bubble and exposed messages."""
RL_PHASES = (
    "generation",
    "reward",
    "policy_logprobs",
    "reference_logprobs",
    "values",
    "advantage",
    "training",
    "refit",
    "exposed_generation",
    "idle",
    "other",
)
"""Phases of a step of reinforcement learning in order; ``values`` is the value model's forward pass (PPO),
``exposed_generation`` training ranks' wait for responses, ``idle`` generating ranks' wait for weights."""
_CLOCK_RESOLUTION_SEC = 1e-9  # resolution of clocks; rates over shorter times leave a float's range
_PHASE_SUM_REL_TOL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupStep:
    """One step of a group of ranks that works beside the training ranks.

    Attributes:
        step_time_sec: Wall time of the group's slowest rank in its own step of the same number.
        phases: Seconds by phase on that rank; they sum to step_time_sec.
    """

    step_time_sec: float
    phases: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStats:
    """Rollouts of one step of reinforcement learning: of the samples that were trained on.

    Only the tokens of the responses are needed; all else is None if it is not known.

    Attributes:
        num_response_tokens: Tokens generated.
        num_prompt_tokens: Tokens of the prompts, counted once for each response; None for the rest of the step's
            tokens.
        num_samples: Responses (G-GBS).
        num_truncated: Responses that reached their limit without a stop token; none if lengths are pinned.
        generation_time_sec: Time of the slowest generating rank.
        batch_fill_pct: Share of the decoding batches' slots that held a sample, over all passes of all rounds and
            replicas, percent: tokens over slots x passes.
        imbalance_pct: (slowest - mean) / slowest time of the generating replicas, percent.
        staleness_steps: Steps by which the weights that generated are older than those that train on it; of the oldest.
        num_rounds: Rounds of generation; above 1 if dynamic sampling asked for more.
        reward_mean: Mean reward.
        reward_std: Standard deviation of the rewards.
        token_mult_prob_error: Mean over response tokens of exp(|training - generation log-probability|).
        max_logprob_error: Largest |training - generation log-probability| of a response token.
        kl: Mean k3 estimate of the divergence from the reference policy; None without a reference, too.
        refit_bytes: Bytes of weights that the generating ranks received, over all of them.
        refit_time_sec: Time of the slowest rank.
        tokens_digest: Hash of all response tokens, in hexadecimal: equal for equal tokens. Empty if not known.
    """

    num_response_tokens: Count
    num_prompt_tokens: Count | None = None
    num_samples: Count | None = None
    num_truncated: Count | None = None
    generation_time_sec: float | None = None
    batch_fill_pct: float | None = None
    imbalance_pct: float | None = None
    staleness_steps: Count | None = None
    num_rounds: Count | None = None
    reward_mean: float | None = None
    reward_std: float | None = None
    token_mult_prob_error: float | None = None
    max_logprob_error: float | None = None
    kl: float | None = None
    refit_bytes: Count | None = None
    refit_time_sec: float | None = None
    tokens_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One training step as one line of ``steps.jsonl``.

    Attributes:
        step: Counted from 0, warm-up included.
        step_time_sec: Wall time of the slowest rank, device synchronised at both ends.
        tokens: Tokens all ranks processed; of reinforcement learning, prompt and response tokens of the step.
        phases: Seconds by phase on the slowest rank; they sum to step_time_sec. Empty if not measured.
        flops: Model FLOPs of training on all ranks; None if not known.
        loss: Mean loss over the step's tokens; None if not known.
        grad_norm: Norm of the whole gradient before clipping; None if not known.
        peak_memory_bytes: Largest peak of any rank so far; None if not known.
        rank_times_sec: Wall time of each rank that trains, by rank; empty if not known.
        rank_busy_sec: Part of it in which the rank itself worked and did not wait for others; empty if not known.
        groups: Ranks that only generate, by group name (``generation``): their own step of the same number.
        rollout: Rollouts of reinforcement learning; None for other workloads.

    Raises:
        RecordError: If a value is impossible: negative, not finite, or phases that don't sum to the step.
    """

    step: int
    step_time_sec: float
    tokens: int
    phases: Mapping[str, float] = field(default_factory=dict)
    flops: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    peak_memory_bytes: Count | None = None
    rank_times_sec: tuple[float, ...] = ()
    rank_busy_sec: tuple[float, ...] = ()
    groups: Mapping[str, GroupStep] = field(default_factory=dict)
    rollout: RolloutStats | None = None

    def __post_init__(self) -> None:
        subject = f"step {self.step}"
        if self.step < 0:
            raise RecordError(f"{subject}: steps count from 0")
        if not (math.isfinite(self.step_time_sec) and self.step_time_sec >= _CLOCK_RESOLUTION_SEC):
            raise RecordError(
                f"{subject}: step_time_sec={self.step_time_sec} must be positive and finite, "
                f"at least {_CLOCK_RESOLUTION_SEC:g}"
            )
        if self.tokens < 1:
            raise RecordError(f"{subject}: tokens={self.tokens} must be >= 1")
        if self.flops is not None and not (math.isfinite(self.flops) and self.flops > 0):
            raise RecordError(f"{subject}: flops={self.flops} must be positive and finite")
        for name, seconds in self.phases.items():
            _check_seconds(seconds, subject=f"{subject}: {name}")
        for times in (self.rank_times_sec, self.rank_busy_sec):
            for rank, seconds in enumerate(times):
                _check_seconds(seconds, subject=f"{subject}: rank {rank}")
        if self.phases:
            _check_sum(self.phases, step_time_sec=self.step_time_sec, subject=subject)
        for name, group in self.groups.items():
            _check_sum(group.phases, step_time_sec=group.step_time_sec, subject=f"{subject}: group {name}")


def _check_seconds(seconds: float, *, subject: str) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise RecordError(f"{subject}={seconds} s must be finite and not negative")


def _check_sum(phases: Mapping[str, float], *, step_time_sec: float, subject: str) -> None:
    total = math.fsum(phases.values())
    if not (math.isfinite(step_time_sec) and step_time_sec >= 0):
        raise RecordError(f"{subject}: step_time_sec={step_time_sec} must be finite and not negative")
    if not math.isclose(total, step_time_sec, rel_tol=_PHASE_SUM_REL_TOL):
        raise RecordError(
            f"{subject}: phases sum to {total:.6f} s, the step took {step_time_sec:.6f} s; they must agree"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Result of a run, ``result.json``: rank 0 writes it last, after every rank has run its last step.

    Attributes:
        num_ranks: Ranks that took part.
        num_steps: Steps run, warm-up included.
        device_name: Name in the driver.
        environment: Versions and settings seen inside the ranks, e.g. torch, cuda, nccl.
        hosts: Name of each rank's host, by rank; empty if not known.
        yardsticks_before: Fixed workload of each rank before its steps, by rank; empty if not timed.
        yardsticks_after: The same after its steps.
        checkpoint: Save and load of a checkpoint after the steps; None if the plan asks for none.
    """

    num_ranks: Count
    num_steps: Count
    device_name: str
    environment: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    yardsticks_before: tuple[Yardstick, ...] = ()
    yardsticks_after: tuple[Yardstick, ...] = ()
    checkpoint: CheckpointTimes | None = None
    schema_version: Literal[1] = RECORD_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutput:
    """Output of one finished run, as a framework reads it from the run directory.

    Attributes:
        records: Every step in order, warm-up included.
        environment: Versions and settings seen inside the ranks.
        hosts: Name of each rank's host, by rank; empty if not known.
        health: State of the machine meanwhile; None if it was not watched.
        yardsticks_before: Fixed workload of each rank before its steps, by rank; empty if not timed.
        yardsticks_after: The same after its steps.
        start: Time from the launch to the first step; None if it was not noted.
        checkpoint: Save and load of a checkpoint after the steps; None if the plan asks for none.
    """

    records: tuple[StepRecord, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    health: HealthReport | None = None
    yardsticks_before: tuple[Yardstick, ...] = ()
    yardsticks_after: tuple[Yardstick, ...] = ()
    start: StartTimes | None = None
    checkpoint: CheckpointTimes | None = None


def measured_steps(records: Sequence[StepRecord], *, warmup_steps: int) -> list[StepRecord]:
    """Return the records after warm-up."""
    return [record for record in records if record.step >= warmup_steps]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of ``progress.jsonl``, written by rank 0 between steps while the run goes on.

    Attributes:
        step: Last finished step, counted from 0.
        step_time_sec: Its wall time on rank 0.
        ended_sec: Reading of the host's monotonic clock at its end, CLOCK_MONOTONIC; None if the writer notes none.
    """

    step: Count
    step_time_sec: Amount
    ended_sec: Amount | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RankError:
    """Error of a failing rank, ``error-rank<N>.json``.

    Attributes:
        rank: Rank in the run.
        time_sec: Time of the error, seconds since the epoch; the earliest file is the cause, the others consequences.
        message: Type and text of the exception.
        traceback: Formatted.
        error_type: Name of the exception's class; empty if not known.
    """

    rank: int
    time_sec: float
    message: str
    traceback: str
    error_type: str = ""
    schema_version: Literal[1] = RECORD_SCHEMA_VERSION


def error_file(rank: int) -> str:
    """Return the name of a rank's error file."""
    return f"error-rank{rank}.json"
