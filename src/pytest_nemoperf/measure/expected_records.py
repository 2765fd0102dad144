"""Expected content of a run's records, for every framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.recipes.systems import largest_peak_tflops

_MOST_PROB_ERROR: Final = 1.05
"""Above it, generation does not sample from the trained policy. NeMo RL's test suites require less than 1.05
(tests/test_suites/llm); its guide explains a lasting 1 to 2% by a fault in the weights (docs/guides/grpo.md)."""
_MOST_PROB_ERROR_OF_FP8: Final = 1.1
"""The same where generation runs in 8 bits: NeMo RL's suites of fp8 rollouts require less than 1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRollout:
    """Expected content of the records of reinforcement learning, beside ExpectedRecords.

    Attributes:
        num_training_gpus: Ranks that compute log-probabilities and train.
        num_generation_gpus: Ranks that generate; the same or others.
        num_samples: Responses of a step.
        num_response_tokens: Tokens of these; None if their lengths are not pinned.
        max_staleness: Steps by which the generating weights may be older than the trained ones.
        most_prob_error: Largest ``token_mult_prob_error`` of an on-policy step.
        flops_per_step: Model FLOPs of training in one step; None if they depend on the responses, or a value model
            adds its own.
    """

    num_training_gpus: int
    num_generation_gpus: int
    num_samples: int
    num_response_tokens: int | None
    max_staleness: int
    most_prob_error: float
    flops_per_step: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRecords:
    """Expected content of the records of one run.

    Attributes:
        num_gpus: Ranks the tokens are divided by.
        warmup_steps: Steps dropped first.
        steps: Measured steps after them.
        tokens_per_step: Tokens of all ranks in one step; the maximum if they differ.
        has_exact_tokens: Every step has tokens_per_step tokens; otherwise they depend on the responses or sequences.
        flops_per_token: Model FLOPs per token; None if unknown, then there is no TFLOP/s. The maximum if lengths vary:
            then TFLOP/s needs FLOPs in the records.
        flops_convention: Name of the FLOPs convention.
        peak_tflops: Dense peak of one GPU, TFLOP/s; None if unknown, then there is no MFU.
        min_flops_per_token: Model FLOPs per token whatever the lengths of sequences, as a lower bound; None if unknown.
        most_tflops: TFLOP/s of one GPU that can't be surpassed: the peak, or of an unknown device the largest of the
            catalog in this precision; None if that is unknown, too.
        rollout: Reinforcement learning; None for other workloads.
        extra_metrics: Names of the metrics that are measured on request.
        may_compile: The first steps may compile: the recipe says so, or the framework decides by itself.
    """

    num_gpus: int
    warmup_steps: int
    steps: int
    tokens_per_step: int
    has_exact_tokens: bool = True
    flops_per_token: float | None = None
    flops_convention: str | None = None
    peak_tflops: float | None = None
    min_flops_per_token: float | None = None
    most_tflops: float | None = None
    rollout: ExpectedRollout | None = None
    extra_metrics: tuple[str, ...] = ()
    may_compile: bool = True


def expected_of(plan: Plan) -> ExpectedRecords:
    """Return the expected content of the records of a plan's runs.

    FLOPs per token of reinforcement learning are None: they depend on the lengths of the responses, and training is
    only a part of the step.
    """
    rollout = None
    flops_per_token: float | None = plan.flops_per_token
    if plan.rl is not None:
        rollout = _expected_rollout(plan, rl=plan.rl)
        flops_per_token = None
    return ExpectedRecords(
        num_gpus=plan.layout.total_gpus,
        warmup_steps=plan.warmup_steps,
        steps=plan.steps,
        tokens_per_step=plan.tokens_per_step,
        has_exact_tokens=_has_exact_tokens(plan),
        flops_per_token=flops_per_token,
        flops_convention=plan.flops_convention,
        peak_tflops=plan.peak_tflops,
        min_flops_per_token=num_flops_per_token(
            plan.model, seq_len=1, convention=find_convention(plan.flops_convention), tp=plan.layout.tp
        ),
        most_tflops=plan.peak_tflops or largest_peak_tflops(plan.precision.number_format),
        rollout=rollout,
        extra_metrics=plan.extra_metrics,
        may_compile=plan.is_compiled or plan.framework != NATIVE,
    )


def _expected_rollout(plan: Plan, *, rl: RL) -> ExpectedRollout:
    generation = plan.layout.generation
    flops_per_step = None
    num_response_tokens = None
    if _has_exact_tokens(plan):
        num_response_tokens = sum(map(rl.response_limit, range(rl.num_samples)))
    if _has_exact_tokens(plan) and not rl.algorithm_config.has_value_model:
        flops_per_step = plan.flops_per_token * plan.tokens_per_step
    return ExpectedRollout(
        num_training_gpus=plan.layout.gpus,
        num_generation_gpus=plan.layout.gpus if generation is None else generation.gpus,
        num_samples=rl.num_samples,
        num_response_tokens=num_response_tokens,
        max_staleness=rl.max_staleness,
        most_prob_error=_MOST_PROB_ERROR_OF_FP8 if plan.generation_precision == "fp8" else _MOST_PROB_ERROR,
        flops_per_step=flops_per_step,
    )


def _has_exact_tokens(plan: Plan) -> bool:
    if plan.rl is None:
        return not plan.has_varying_lengths
    return plan.rl.has_pinned_lengths and not _may_change_lengths(plan.rl)


def _may_change_lengths(rl: RL) -> bool:
    """Return whether dynamic sampling may replace dropped samples by samples of another length."""
    return rl.algorithm_config.has_dynamic_sampling and len(set(rl.max_lengths())) > 1
