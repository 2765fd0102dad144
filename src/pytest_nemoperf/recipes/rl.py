"""Reinforcement learning part of a recipe: batch, lengths, sampling, algorithm."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from pytest_nemoperf.bounds import SAMPLES, bound_problem, check_fields
from pytest_nemoperf.errors import RecipeError, did_you_mean, shown
from pytest_nemoperf.recipes.algorithms import Algorithm, find_algorithm

NUM_TASK_TOKENS: Final = 14
"""Tokens of the arithmetic task: ten digits, plus, equals, the separator of examples, and the stop token."""
STOP_TOKEN: Final = 13
_MIN_PROMPT_LEN = 8
"""Tokens of the task's longest question, with operands of three digits."""
_MAX_OPERAND = 999
_SAMPLES_OF_A_STEP = "num_prompts_per_step*num_generations_per_prompt"

GENERATORS: Final = ("native", "vllm", "megatron", "sglang", "trtllm", "dynamo")
"""Engines that generate, by name; the native engine has the first two."""
GenerationPrecision = Literal["fp32", "bf16", "fp8"]
"""Number format of generation; ``fp8`` is what vLLM calls so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RL:
    """The reinforcement learning part of a recipe.

    Each step generates ``num_generations_per_prompt`` responses to each of ``num_prompts_per_step`` prompts (together
    G-GBS samples) and trains on them in batches of the recipe's ``global_batch_size`` (T-GBS), one optimizer update
    each. Prompts ask for sums of two numbers, after examples that fill them up to their length.

    Attributes:
        num_prompts_per_step: Prompts.
        num_generations_per_prompt: Responses to each.
        prompt_len: Tokens of the longest prompt.
        min_prompt_len: Tokens of the shortest; lengths between the two are equally frequent. None: all prompt_len.
        max_response_len: Maximum tokens of a response.
        response_lengths: ``fixed``: every response has max_response_len tokens; a list: the n-th sample of a step has
            its n-th length, cyclically; ``sampled``: a response ends with its stop token. Speed compares only between
            equal lengths, so the first is the default.
        algorithm: Name of a known one, or an Algorithm.
        max_staleness: Steps by which the weights that generate may be older than those that train: 0 on-policy, n for
            n steps off, which needs generation ranks of its own.
        generator: ``native`` or ``vllm``; of other frameworks ``megatron``, ``sglang``, ``trtllm`` or ``dynamo`` too.
        generation_precision: Number format of the generator's matrix products, ``fp32``, ``bf16`` or ``fp8``; None for
            ``fp32`` where training has it, else ``bf16``.
        temperature: Temperature of sampling; logits are divided by it.
        top_p: Only the most probable tokens, up to this total probability, are sampled.
        top_k: Only this many of the most probable tokens are sampled; None for all.
        max_batch_size: Samples one replica decodes at once; None for all it has.
        is_packed: Training puts several samples into one row of seq_len tokens; otherwise each is padded.
        learning_rate: Learning rate of the policy, and of the value model.
        max_operand: Largest number a prompt asks to add.
        dataset: Name of the dataset, for other frameworks than the native engine, which has its own task.

    Raises:
        RecipeError: If a value breaks a rule.
    """

    num_prompts_per_step: int
    num_generations_per_prompt: int
    prompt_len: int
    max_response_len: int
    min_prompt_len: int | None = None
    response_lengths: Literal["fixed", "sampled"] | tuple[int, ...] = "fixed"
    algorithm: str | Algorithm = "grpo"
    max_staleness: int = 0
    generator: Literal["native", "vllm", "megatron", "sglang", "trtllm", "dynamo"] = "native"
    generation_precision: GenerationPrecision | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_batch_size: int | None = None
    is_packed: bool = False
    learning_rate: float = 1e-5
    max_operand: int = 99
    dataset: str = ""

    def __post_init__(self) -> None:
        lengths: object = self.response_lengths
        if isinstance(lengths, list):
            lengths = tuple(lengths)
            object.__setattr__(self, "response_lengths", lengths)
        if isinstance(lengths, str) and lengths not in ("fixed", "sampled"):
            raise RecipeError(f"unknown response_lengths {shown(lengths)}; use 'fixed', 'sampled' or a list of lengths")
        if self.generator not in GENERATORS:
            raise RecipeError(f"unknown generator {shown(self.generator)}; {did_you_mean(self.generator, GENERATORS)}")
        precision: object = self.generation_precision
        if precision is not None and precision not in get_args(GenerationPrecision):
            raise RecipeError(
                f"unknown generation_precision {shown(precision)}; use {', '.join(get_args(GenerationPrecision))}, or "
                "None for the usual one"
            )
        check_fields(self)
        if problem := bound_problem(self.num_samples, name=_SAMPLES_OF_A_STEP, bound=SAMPLES):
            raise RecipeError(problem)
        if not self.dataset.isprintable():
            raise RecipeError(
                f"dataset={shown(self.dataset)} must be a name of printable characters; write e.g. 'gsm8k'"
            )
        self._check_counts()
        self._check_sampling()
        if lengths == ():
            raise RecipeError("response_lengths has no length; give one at least, or 'fixed'")
        if isinstance(lengths, tuple) and max(lengths) > self.max_response_len:
            raise RecipeError(
                f"response_lengths have {max(lengths)}, more than max_response_len={self.max_response_len}; "
                "raise that limit, or leave the longer ones out"
            )
        if self.algorithm_config.advantage == "group" and self.num_generations_per_prompt == 1:
            raise RecipeError(
                f"num_generations_per_prompt=1 leaves {self.algorithm_config.name} no group to compare a response "
                "with; use 2 or more"
            )

    @property
    def algorithm_config(self) -> Algorithm:
        """The algorithm, looked up if it is a name."""
        if isinstance(self.algorithm, Algorithm):
            return self.algorithm
        return find_algorithm(self.algorithm)

    def precision_of_generation(self, training: str) -> GenerationPrecision:
        """Return the number format of generation beside training in that precision."""
        return self.generation_precision or usual_generation_precision(training)

    @property
    def num_samples(self) -> int:
        """Responses of a step (G-GBS)."""
        return self.num_prompts_per_step * self.num_generations_per_prompt

    @property
    def has_pinned_lengths(self) -> bool:
        """Whether the length of every response is known before it is generated."""
        return self.response_lengths != "sampled"

    def prompt_length(self, prompt: int) -> int:
        """Return the tokens of a step's n-th prompt, the same in every step."""
        shortest = self.min_prompt_len
        if shortest is None:
            return self.prompt_len
        return shortest + prompt % (self.prompt_len - shortest + 1)

    def response_limit(self, sample: int) -> int:
        """Return the maximum tokens of a step's n-th response: its length if lengths are pinned."""
        if isinstance(self.response_lengths, str):
            return self.max_response_len
        return self.response_lengths[sample % len(self.response_lengths)]

    def num_slots(self, *, dp: int) -> int:
        """Return the maximum number of samples a replica decodes at once; ``dp`` replicas share whole prompts."""
        max_samples = math.ceil(self.num_prompts_per_step / dp) * self.num_generations_per_prompt
        if self.max_batch_size is not None:
            max_samples = min(self.max_batch_size, max_samples)
        return max_samples

    def max_lengths(self, *, seq_len: int | None = None) -> list[int]:
        """Return the maximum tokens of each sample, prompt and response; exact if lengths are pinned.

        Args:
            seq_len: Limit of both together, which frameworks may have beside those of each; None for no other.
        """
        lengths = []
        for sample in range(self.num_samples):
            prompt = sample // self.num_generations_per_prompt
            length = self.prompt_length(prompt) + self.response_limit(sample)
            if seq_len is not None:
                length = min(length, seq_len)
            lengths.append(length)
        return lengths

    def _check_counts(self) -> None:
        for name in ("prompt_len", "min_prompt_len"):
            length = getattr(self, name)
            if length is not None and length < _MIN_PROMPT_LEN:
                raise RecipeError(
                    f"{name}={length} must be a whole number >= {_MIN_PROMPT_LEN}, the tokens of the longest question"
                )
        shortest = self.min_prompt_len
        if shortest is not None and shortest > self.prompt_len:
            raise RecipeError(f"min_prompt_len={shortest} is more than prompt_len={self.prompt_len}; lower it")
        if self.max_operand > _MAX_OPERAND:
            raise RecipeError(f"max_operand={self.max_operand} has more than three digits; use {_MAX_OPERAND} or less")

    def _check_sampling(self) -> None:
        if self.top_p > 1:
            raise RecipeError(f"top_p={self.top_p!r} must be above 0 and at most 1")


def usual_generation_precision(training: str) -> GenerationPrecision:
    """Return the number format of generation of a recipe without one: ``bf16`` beside training in 8 bits, too."""
    return "fp32" if training == "fp32" else "bf16"
