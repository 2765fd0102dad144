"""Rules of reinforcement learning recipes beside those of training, with the arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.rl import NUM_TASK_TOKENS, RL
from pytest_nemoperf.recipes.rules import NATIVE, indivisible, tensor_problems
from pytest_nemoperf.recipes.vllm_limits import vllm_problems

_NATIVE_GENERATORS = frozenset({"native", "vllm"})


def rl_problems(recipe: Recipe, *, layout: Layout, model: ModelConfig) -> Iterator[str]:
    """Yield every broken rule, with its arithmetic; those of task, rows and generator bind the native engine alone.

    Args:
        recipe: Workload.
        layout: The system's, from find_layout.
        model: Architecture.
    """
    rl = recipe.rl
    generation = layout.generation
    if rl is None:
        if generation is not None:
            yield (
                f"layout.generation ({generation.label}) says who generates responses, and a recipe without rl has "
                "none; give the recipe rl=RL(...), or leave generation out"
            )
        return
    assert generation is not None  # noqa: S101 (find_layout adds one)
    yield from _batch_problems(recipe, rl=rl)
    if recipe.framework == NATIVE and recipe.is_router_balanced:
        yield (
            "is_router_balanced=True sends a token to experts by its place in the batch, which differs between "
            "generation and training: they would disagree about its probability; use is_router_balanced=False"
        )
    if recipe.has_varying_lengths:
        yield "has_varying_lengths=True with rl, whose response_lengths says how long responses are; drop it"
    if recipe.framework == NATIVE:
        if rl.dataset:
            yield (
                f"dataset={rl.dataset!r} with framework={NATIVE!r}, which trains on sums of two numbers; leave dataset "
                "out, or name the framework that reads it"
            )
        yield from _staleness_problems(rl, generation=generation)
        yield from _length_problems(recipe, rl=rl)
        yield from _task_problems(model)
        yield from _replica_problems(rl, generation=generation)
        if rl.generator not in _NATIVE_GENERATORS:
            yield (
                f"generator={rl.generator!r} with framework={NATIVE!r}, which has native and vllm; choose one of "
                "these, or name the framework that has it"
            )
        if rl.generator == "native" and rl.generation_precision == "fp8":
            yield (
                "generation_precision='fp8' with generator='native', whose matrix products are fp32 or bf16; use "
                "generator='vllm', or generation_precision='bf16'"
            )
        if rl.generator == "vllm":
            yield from vllm_problems(model, rl=rl, generation=generation)
        yield from _share_problems(generation, model=model)


def _batch_problems(recipe: Recipe, *, rl: RL) -> Iterator[str]:
    samples = rl.num_samples
    gbs = recipe.global_batch_size
    product = f"{rl.num_prompts_per_step}*{rl.num_generations_per_prompt}={samples}"
    if samples % gbs:
        near = f"{samples // gbs * gbs} or " if samples > gbs else ""
        yield (
            f"num_prompts_per_step*num_generations_per_prompt ({product} samples a step, G-GBS) is not a multiple of "
            f"global_batch_size={gbs} (T-GBS), so a step would have {samples}/{gbs} = {samples / gbs:g} updates; "
            f"choose {near}{(samples // gbs + 1) * gbs} samples, or a global_batch_size that divides {samples}"
        )
    if rl.max_batch_size is not None and rl.max_batch_size > samples:
        yield (
            f"max_batch_size={rl.max_batch_size} is more than the samples of a step ({product}); "
            f"use {samples} or less, or None for all that a replica has"
        )
    if recipe.framework == NATIVE and rl.is_packed and recipe.micro_batch_size > 1:
        yield (
            f"micro_batch_size={recipe.micro_batch_size} with is_packed=True: a packed row of seq_len tokens holds "
            "several samples and is one forward pass; use micro_batch_size=1"
        )


def _length_problems(recipe: Recipe, *, rl: RL) -> Iterator[str]:
    longest = rl.prompt_len + rl.max_response_len
    if longest > recipe.seq_len:
        yield (
            f"prompt_len+max_response_len ({rl.prompt_len}+{rl.max_response_len}={longest}) is more than "
            f"seq_len={recipe.seq_len}; raise seq_len to {longest}, or shorten one of the two"
        )


def _staleness_problems(rl: RL, *, generation: GenerationLayout) -> Iterator[str]:
    if rl.max_staleness and generation.is_colocated:
        yield (
            f"max_staleness={rl.max_staleness} lets generation run ahead of training, and ranks that take turns "
            "can't do both at once; give the layout's generation is_colocated=False and gpus of its own, or use "
            "max_staleness=0"
        )


def _task_problems(model: ModelConfig) -> Iterator[str]:
    if model.vocab_size < NUM_TASK_TOKENS:
        yield (
            f"vocab_size={model.vocab_size} is less than the {NUM_TASK_TOKENS} tokens of the arithmetic task; "
            f"use a model with {NUM_TASK_TOKENS} tokens or more"
        )


def _replica_problems(rl: RL, *, generation: GenerationLayout) -> Iterator[str]:
    if rl.num_prompts_per_step < generation.dp:
        yield (
            f"num_prompts_per_step={rl.num_prompts_per_step} are fewer than the replicas that generate "
            f"(gpus/(tp*pp) = {generation.gpus}/({generation.tp}*{generation.pp}) = {generation.dp}), so some would "
            "idle; raise num_prompts_per_step, or lower the generation layout's gpus"
        )


def _share_problems(generation: GenerationLayout, *, model: ModelConfig) -> Iterator[str]:
    """Yield sizes that don't divide among a replica's ranks; each tp rank has a part of every expert."""
    axis = "generation tp"
    tp = generation.tp
    yield from tensor_problems(model, axis=axis, tp=tp, is_native=True)
    if model.moe is not None and model.moe.ffn_hidden_size % tp:
        yield indivisible(axis, tp, name="moe.ffn_hidden_size", size=model.moe.ffn_hidden_size)
    if generation.pp > model.num_layers:
        yield (
            f"generation pp={generation.pp} stages are more than num_layers={model.num_layers}; "
            "lower pp of the generation layout"
        )
