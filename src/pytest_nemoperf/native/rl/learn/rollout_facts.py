"""Statistics of a step's samples, computed after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops
from pytest_nemoperf.models.architecture import value_model
from pytest_nemoperf.native.rl.generate.rollout_transfer import RolloutBatch
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn.objective import max_logprob_error, mean_kl, token_mult_prob_error
from pytest_nemoperf.native.rl.learn.policy_update import UpdateStats
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RolloutStats


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFacts:
    """Statistics of a step's samples that a training rank can compute.

    Attributes:
        num_tokens: Tokens of prompts and responses.
        flops: Model FLOPs of training on the samples.
        rollout: Their statistics, without the figures of the ranks (times, batch fill), for rl_output to fill in.
    """

    num_tokens: int
    flops: float
    rollout: RolloutStats


def rollout_facts_of(
    plan: Plan, *, step: int, rollouts: RolloutBatch, samples: StepSamples, stats: UpdateStats, num_refit_bytes: int
) -> RolloutFacts:
    """Compute the statistics of the samples of a step that was trained on."""
    lens = samples.lens_N.tolist()
    num_prompt_tokens = int(samples.prompt_lens_N.sum())
    kl = None
    if stats.reference_logprobs_NS is not None:
        kl = mean_kl(stats.logprobs_NS, stats.reference_logprobs_NS, samples).item()
    rollout = RolloutStats(
        num_samples=len(lens),
        num_prompt_tokens=num_prompt_tokens,
        num_response_tokens=sum(lens) - num_prompt_tokens,
        num_truncated=int(samples.is_truncated_N.sum()),
        staleness_steps=step - int(rollouts.versions_N.min()),
        num_rounds=1 + int(rollouts.rounds_N.max()),
        reward_mean=samples.rewards_N.mean().item(),
        reward_std=samples.rewards_N.std(unbiased=False).item(),
        token_mult_prob_error=token_mult_prob_error(stats.logprobs_NS, samples).item(),
        max_logprob_error=max_logprob_error(stats.logprobs_NS, samples).item(),
        kl=kl,
        refit_bytes=num_refit_bytes,
        tokens_digest=rollouts.tokens_digest(),
    )
    return RolloutFacts(num_tokens=sum(lens), flops=_training_flops(plan, lens=lens), rollout=rollout)


def _training_flops(plan: Plan, *, lens: Sequence[int]) -> float:
    """Return model FLOPs of training on sequences of these lengths, the value model's included."""
    assert plan.rl is not None  # noqa: S101 (the caller checked it)
    models = [plan.model]
    if plan.rl.algorithm_config.has_value_model:
        models.append(value_model(plan.model))
    convention = find_convention(plan.flops_convention)
    return sum(num_flops(model, seq_lens=lens, convention=convention, tp=plan.layout.tp) for model in models)
