"""Samples of a step, made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_nemoperf.native.rl.generate.rollouts import StepSamples


def make_samples(
    response_lens: Sequence[int],
    *,
    prompt_lens: Sequence[int] = (2, 3, 1),
    rewards: Sequence[float] | None = None,
    group_size: int = 1,
    seed: int = 0,
) -> StepSamples:
    """Return samples of these lengths with random log-probabilities; prompts' lengths repeat."""
    generator = torch.Generator().manual_seed(seed)
    num_samples = len(response_lens)
    prompts = [prompt_lens[sample % len(prompt_lens)] for sample in range(num_samples)]
    lens = [prompt + response for prompt, response in zip(prompts, response_lens, strict=True)]
    samples = StepSamples(
        tokens_NS=torch.randint(0, 10, (num_samples, max(lens)), generator=generator),
        prompt_lens_N=torch.tensor(prompts),
        lens_N=torch.tensor(lens),
        is_truncated_N=torch.zeros(num_samples, dtype=torch.bool),
        logprobs_NS=-3 * torch.rand(num_samples, max(lens), generator=generator),
        rewards_N=torch.tensor(rewards or [float(sample % 2) for sample in range(num_samples)]),
        group_size=group_size,
    )
    samples.logprobs_NS.mul_(samples.response_mask_NS())
    samples.tokens_NS.mul_(torch.arange(max(lens)) < samples.lens_N[:, None])
    return samples


def response_places(samples: StepSamples) -> list[list[int]]:
    """Return the places of each sample's response, from the two lengths alone."""
    prompts, lens = samples.prompt_lens_N.tolist(), samples.lens_N.tolist()
    return [list(range(first, last)) for first, last in zip(prompts, lens, strict=True)]


def with_gradient(x_NS: Tensor) -> Tensor:
    return x_NS.clone().requires_grad_()


def gradient_of(loss: Tensor, x: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(loss, x)
    return grad


class Numbers:
    """Random log-probabilities and values, in place of those of a step's passes."""

    def __init__(self, samples: StepSamples, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = samples.tokens_NS.shape
        self.old_NS = -3 * torch.rand(shape, generator=generator)
        self.reference_NS = self.old_NS + 0.5 * torch.randn(shape, generator=generator)
        self.new_NS = self.old_NS + 0.3 * torch.randn(shape, generator=generator)
        self.values_NS = torch.randn(shape, generator=generator)
        self.new_values_NS = self.values_NS + 0.3 * torch.randn(shape, generator=generator)
