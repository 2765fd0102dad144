"""What the records of a run must hold, whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.rl import RL


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRollout:
    """What the records of reinforcement learning must hold beside that.

    Attributes:
        num_training_gpus: Ranks that compute log-probabilities and train.
        num_generation_gpus: Ranks that generate; the same or others.
        num_samples: Responses of a step.
        max_staleness: Steps by which weights that generate may be older than those that train.
        flops_per_step: Model FLOPs of training in one step; None where they follow from what is generated, or a value
            model adds its own.
    """

    num_training_gpus: int
    num_generation_gpus: int
    num_samples: int
    max_staleness: int
    flops_per_step: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedRecords:
    """What the records of one run must hold.

    Attributes:
        num_gpus: Ranks the tokens are divided by.
        warmup_steps: Steps dropped first.
        steps: Measured steps after them.
        tokens_per_step: Tokens all ranks process in one step; the most there can be where they differ.
        has_exact_tokens: Every step has tokens_per_step tokens; otherwise it has what was generated, or as many as its
            sequences happen to have.
        flops_per_token: Model FLOPs per token; None if not known, then there is no TFLOP/s. The most there can be where
            lengths vary: then only FLOPs in the records make TFLOP/s.
        flops_convention: How they are counted.
        peak_tflops: Dense peak of one GPU, TFLOP/s; None if unknown, then there is no MFU.
        rollout: Reinforcement learning; None for other workloads.
    """

    num_gpus: int
    warmup_steps: int
    steps: int
    tokens_per_step: int
    has_exact_tokens: bool = True
    flops_per_token: float | None = None
    flops_convention: str | None = None
    peak_tflops: float | None = None
    rollout: ExpectedRollout | None = None


def expected_of(plan: Plan) -> ExpectedRecords:
    """Return what the records of a plan's runs must hold.

    FLOPs of reinforcement learning are not known before: they follow from the lengths of the responses, and training
    is a part of the step.
    """
    return ExpectedRecords(
        num_gpus=plan.layout.total_gpus,
        warmup_steps=plan.warmup_steps,
        steps=plan.steps,
        tokens_per_step=plan.tokens_per_step,
        has_exact_tokens=_has_exact_tokens(plan),
        flops_per_token=plan.flops_per_token if plan.rl is None else None,
        flops_convention=plan.flops_convention,
        peak_tflops=plan.peak_tflops,
        rollout=None if plan.rl is None else _expected_rollout(plan, rl=plan.rl),
    )


def _expected_rollout(plan: Plan, *, rl: RL) -> ExpectedRollout:
    generation = plan.layout.generation
    is_exact = _has_exact_tokens(plan)
    is_policy_alone = not rl.algorithm_config.has_value_model
    return ExpectedRollout(
        num_training_gpus=plan.layout.gpus,
        num_generation_gpus=plan.layout.gpus if generation is None else generation.gpus,
        num_samples=rl.num_samples,
        max_staleness=rl.max_staleness,
        flops_per_step=plan.flops_per_token * plan.tokens_per_step if is_exact and is_policy_alone else None,
    )


def _has_exact_tokens(plan: Plan) -> bool:
    if plan.rl is None:
        return not plan.has_varying_lengths
    return plan.rl.has_pinned_lengths and not _may_change_lengths(plan.rl)


def _may_change_lengths(rl: RL) -> bool:
    """Tell whether dynamic sampling may put samples of another length in the place of those it drops."""
    return rl.algorithm_config.has_dynamic_sampling and len(set(rl.most_lengths())) > 1
