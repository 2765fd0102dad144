"""A vLLM generator filled with weights of our own model, and the model's log-probabilities of its responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Request
from pytest_nemoperf.native.rl.generate.vllm_generator import VllmGenerator
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL
from tests.native.tiny import CPU, build, tiny_plan

PROMPT_LEN, RESPONSE_LEN, NUM_SAMPLES = 12, 20, 8
# heads as wide as vLLM's CPU attention takes them
MODEL = {"hidden_size": 128, "num_heads": 4, "num_kv_heads": 2, "head_dim": 32, "ffn_hidden_size": 96}


def vllm_plan(
    *,
    model: dict[str, Any] | None = None,
    precision: str = "fp32",
    layouts: dict[str, Layout] | None = None,
    **sampling: Any,
) -> Plan:
    rl = RL(
        num_prompts_per_step=NUM_SAMPLES // 2,
        num_generations_per_prompt=2,
        prompt_len=PROMPT_LEN,
        max_response_len=RESPONSE_LEN,
        generator="vllm",
        **sampling,
    )
    return tiny_plan(
        model=replace(tiny_plan().model, **{**MODEL, **(model or {})}),
        layouts=layouts or {"cpu": Layout(gpus=1)},
        seq_len=PROMPT_LEN + RESPONSE_LEN,
        global_batch_size=NUM_SAMPLES,
        precision=precision,
        rl=rl,
    )


@dataclass(kw_only=True)
class Replica:
    plan: Plan
    generator: VllmGenerator

    @staticmethod
    @contextmanager
    def started(**changes: Any) -> Iterator[Replica]:
        plan = vllm_plan(**changes)
        generator = VllmGenerator(plan, device=CPU)
        try:
            yield Replica(plan=plan, generator=generator)
        finally:
            generator.close()

    def model(self, *, seed: int) -> Decoder:
        """Return our model with matrices large enough for some tokens to be much more likely than others."""
        decoder = build(replace(self.plan, seed=seed))
        with torch.no_grad():
            for parameter in decoder.parameters():
                parameter.mul_(6 if parameter.dim() == 2 else torch.linspace(0.5, 1.5, len(parameter)))
        return decoder

    def refit(self, decoder: Decoder) -> None:
        weights = dict(decoder.named_parameters())
        targets = self.generator.allocate()
        assert targets.keys() == weights.keys()
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(weights[name])
        self.generator.on_weights_updated()

    def generate(self, requests: Sequence[Request], *, seed: int = 1) -> GenerationResult:
        return self.generator.generate(requests, seed=seed)

    def logprob_error(self, generated: GenerationResult, *, requests: Sequence[Request], decoder: Decoder) -> float:
        """Return the largest difference of a token's log-probability to our model's."""
        return max(
            (torch.tensor(response.logprobs) - self._logprobs(decoder, request.prompt + response.tokens))
            .abs()
            .max()
            .item()
            for request, response in zip(requests, generated.responses, strict=True)
        )

    def _logprobs(self, decoder: Decoder, tokens: tuple[int, ...]) -> Tensor:
        """Return our log-probabilities of a full sequence's response; padding at the end changes none."""
        assert self.plan.rl is not None
        padding = [0] * (self.plan.seq_len - len(tokens))
        batch = torch.tensor([[*tokens, *padding]])
        with torch.no_grad():
            logits = decoder.logits(batch)[0].float() / self.plan.rl.temperature
        logprobs = logits.log_softmax(-1)
        places = torch.arange(PROMPT_LEN, len(tokens))
        return logprobs[places - 1, torch.tensor(tokens)[places]]


def requests(*, is_pinned: bool = True, max_lens: Sequence[int] = (RESPONSE_LEN,)) -> list[Request]:
    return [
        Request(
            sample=sample,
            prompt=tuple((3 * (sample // 2) + place * place) % 14 for place in range(PROMPT_LEN)),
            max_len=max_lens[sample % len(max_lens)],
            is_pinned=is_pinned,
        )
        for sample in range(NUM_SAMPLES)
    ]
