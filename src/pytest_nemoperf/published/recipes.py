"""Recipes of published rows: a row's model, batch and degrees as something that can run.

A page prints less than a run needs. What follows from the framework or from other rows of the page is filled in and
said in the recipe's notes; a row that leaves its batch, its sequences or its work open has no recipe, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.errors import NemoPerfError, RecipeError
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.pricing.price import peak_memory_bytes, uncounted_memory
from pytest_nemoperf.published.contradictions import sample_text, sample_tokens
from pytest_nemoperf.published.precisions import row_precision
from pytest_nemoperf.published.row import PublishedRollouts, PublishedRow
from pytest_nemoperf.published.row_model import row_convention, row_model
from pytest_nemoperf.recipes.algorithms import find_algorithm
from pytest_nemoperf.recipes.memory_rules import MemoryRules, megatron_rules, native_rules, nemo_rl_rules
from pytest_nemoperf.recipes.overrides import CHANGED_SUFFIX, complete_layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL, GenerationPrecision
from pytest_nemoperf.recipes.systems import System, find_system

_FRAMEWORKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "megatron_bridge": "megatron_bridge",
        "nemo": "megatron",  # NeMo 1 and 2 train with Megatron-Core
        "dfm": "megatron",  # so does DFM
        "automodel": "automodel",
        "torchtitan": "torchtitan",
        "nemo_rl": "nemo_rl",
    }
)
"""Framework that runs a row's recipe, by the one that ran the row."""
BACKENDS: Final = MappingProxyType({"Megatron": "megatron", "Megatron-core": "megatron", "PyTorch": "dtensor"})
"""Training backends of NeMo RL, by printed words."""
_VLLM_PRECISIONS: Final[Mapping[str, GenerationPrecision]] = MappingProxyType({"BF16": "bf16", "FP8": "fp8"})
"""Precision of generation by the printed word."""
BALANCED: Final = frozenset({"megatron_bridge", "automodel"})
"""Frameworks whose pages say that tokens are assigned to experts evenly."""
_GENERATIONS: Final = MappingProxyType({2048: 32, 512: 16})
"""Responses to each prompt by responses of a step, in NeMo RL's own recipes of the published models."""
_OTHER_GPUS: Final = "Grand Teton"
_CAPACITY_MARK: Final = "tokendrop"
_PUBLISHED_CASE: Final = re.compile(r"-pub\.[a-z0-9._]+\.[a-z]+\d+$")
_UNPRINTED: Final = "not on the page: "
_UNSAFE: Final = re.compile(r"[^a-z0-9._]+")

# As examples/configs/grpo_math_1B.yaml of NeMo RL has it, the base of its recipes.
_GRPO_SETTINGS: Final = MappingProxyType({"kl_coef": 0.01, "loss_mean": "token", "is_leave_one_out": True})
_LEARNING_RATE: Final = 3e-7
_RL_STEPS: Final = 5
_RL_WARMUP_STEPS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRecipe:
    """A published row's recipe, or the reason that it has none.

    Attributes:
        recipe: With a layout for the row's system alone; None for none.
        reason: Sentence; empty for a row with a recipe.
    """

    recipe: Recipe | None
    reason: str = ""


def recipe_of(row: PublishedRow) -> RowRecipe:
    """Return the recipe of a published row, or the reason that it has none."""
    made = unpriced_recipe_of(row)
    if made.recipe is None:
        return made
    return RowRecipe(recipe=_with_recomputation(made.recipe, row=row, system=find_system(row.system)))


def unpriced_recipe_of(row: PublishedRow) -> RowRecipe:
    """Return the recipe of a published row without recomputation: its choice takes a hundred times as long."""
    for problem in _problems(row):
        return RowRecipe(recipe=None, reason=problem)
    try:
        system = find_system(row.system)
        if row.rollouts is None:
            recipe = _pretraining(row, system=system)
        else:
            recipe = _reinforcement(row, rollouts=row.rollouts, system=system)
        resolve(recipe, system=system)
    except NemoPerfError as exc:
        return RowRecipe(recipe=None, reason=str(exc))
    return RowRecipe(recipe=recipe)


def incomparable_conditions(row: PublishedRow) -> Iterator[str]:
    """Yield conditions of a row that no plan has: work that is left out, or other GPUs than its system names."""
    if _CAPACITY_MARK in row.model.lower():
        yield "experts drop the tokens above their capacity, and a recipe's compute all of them"
    if _OTHER_GPUS in row.system_title:
        yield f"its GPUs are {row.system_title}, with other memory and power than those of {row.system}"


def _problems(row: PublishedRow) -> Iterator[str]:
    """Yield reasons against a recipe of the row, its degrees apart."""
    if row.framework not in _FRAMEWORKS:
        yield f"{row.framework} trains with JAX, and no framework here does"
    if row.task == "lora":
        yield "LoRA trains adapters beside frozen weights, and a recipe trains all weights"
    if row.task == "sft":
        yield "fine-tuning packs samples whose lengths the page does not print, and a recipe trains full sequences"
    if row.task == "swe":
        yield "agents take many turns with tools between them, and a recipe's responses have one"
    yield from incomparable_conditions(row)
    if not row.seq_len:
        yield "the page prints no sequence length"
    if row.framework == "nemo" and row.tp is None:
        yield "the page prints no tp, pp or cp"
    if not row.global_batch_size:
        yield "the page prints no global batch"


def _pretraining(row: PublishedRow, *, system: System) -> Recipe:
    model = row_model(row)
    layout = _layout(row)
    precision, about_precision = row_precision(row)
    unprinted = [*about_precision]
    micro_batch = row.micro_batch_size
    if not micro_batch:
        micro_batch = 1
        if row.grad_accum_steps:
            micro_batch = max(1, (row.global_batch_size or 0) // (layout.dp * row.grad_accum_steps))
            unprinted.append(f"micro batch {micro_batch}, which follows from the accumulation")
        else:
            unprinted.append("micro batch 1, an assumption")
    if model.moe is not None and row.framework not in BALANCED:
        unprinted.append("routing that is not balanced over the experts, an assumption")
    return Recipe(
        model=model,
        model_name=_proxy_name(row, model=model),
        layouts={system.name: layout},
        seq_len=row.seq_len or 0,
        global_batch_size=row.global_batch_size or 0,
        micro_batch_size=micro_batch,
        precision=precision,
        framework=_FRAMEWORKS[row.framework],
        is_router_balanced=model.moe is not None and row.framework in BALANCED,
        flops_convention=row_convention(row),
        variant=_variant(row),
        notes=_notes(row, unprinted=unprinted),
    )


def _reinforcement(row: PublishedRow, *, rollouts: PublishedRollouts, system: System) -> Recipe:
    backend = BACKENDS.get(rollouts.backend)
    if backend is None:
        raise RecipeError(f"training backend {rollouts.backend!r} is none of {', '.join(BACKENDS)}")
    if rollouts.precision not in _VLLM_PRECISIONS:
        words = ", ".join(_VLLM_PRECISIONS)
        raise RecipeError(f"precision {rollouts.precision!r} of generation is none of {words}")
    precision, about_precision = row_precision(row)
    unprinted = [*about_precision]
    generations = _GENERATIONS.get(rollouts.num_samples)
    if generations is None:
        raise RecipeError(f"the page prints no responses to a prompt, and {rollouts.num_samples} samples imply none")
    prompts = rollouts.num_samples // generations
    unprinted.append(f"{prompts} prompts x {generations} responses, as in NeMo RL's recipes")
    gpus = row.gpus
    if rollouts.max_staleness:
        gpus = row.gpus // 2
        unprinted.append(f"{gpus} of the {row.gpus} GPUs train and as many generate, as in NeMo RL's recipes")
    generation = GenerationLayout(gpus=gpus, tp=rollouts.tp, pp=rollouts.pp, is_colocated=rollouts.max_staleness == 0)
    layout = replace(_layout(row, gpus=gpus, is_sharded=backend == "dtensor"), generation=generation)
    seq_len = row.seq_len or 0
    return Recipe(
        model=row_model(row),
        layouts={system.name: layout},
        seq_len=seq_len,
        global_batch_size=row.global_batch_size or 0,
        precision=precision,
        framework="nemo_rl",
        framework_options={"backend": backend},
        steps=_RL_STEPS,
        warmup_steps=_RL_WARMUP_STEPS,
        variant=_variant(row),
        rl=RL(
            num_prompts_per_step=prompts,
            num_generations_per_prompt=generations,
            prompt_len=seq_len,
            max_response_len=seq_len,
            response_lengths="sampled",
            algorithm=replace(find_algorithm(row.task), **_algorithm_settings(row)),
            generator="vllm",
            generation_precision=_VLLM_PRECISIONS[rollouts.precision],
            max_staleness=rollouts.max_staleness,
            is_packed=True,
            learning_rate=_LEARNING_RATE,
            dataset=rollouts.dataset,
        ),
        notes=_notes(row, unprinted=unprinted),
    )


def _algorithm_settings(row: PublishedRow) -> dict[str, Any]:
    return dict(_GRPO_SETTINGS) if row.task == "grpo" else {}


def _proxy_name(row: PublishedRow, *, model: ModelConfig) -> str:
    if model.num_layers == find_published_model(row.model).num_layers:
        return ""
    return f"{model.name}-{model.num_layers}layers"


def _layout(row: PublishedRow, *, gpus: int | None = None, is_sharded: bool | None = None) -> Layout:
    """Return the row's degrees; one that the page does not print is 1, and data parallelism takes the other ranks.

    Raises:
        RecipeError: If they don't divide the GPUs.
    """
    degrees: dict[str, Any] = {"gpus": gpus or row.gpus}
    for name in ("tp", "pp", "cp", "vp", "ep", "etp"):
        degree = getattr(row, name)
        if degree:
            degrees[name] = degree
    if degrees.get("pp", 1) == 1:
        degrees.pop("vp", None)  # pages print it without a pipeline as well
    layout = complete_layout(degrees)
    if is_sharded is None:
        is_sharded = bool(row.fsdp) or row.framework in ("automodel", "torchtitan")
    if is_sharded:
        return layout
    layout = replace(layout, dp_replicate=layout.dp, dp_shard=1)
    return replace(layout, shard_optimizer=layout.has_optimizer_copies)


def _with_recomputation(recipe: Recipe, *, row: PublishedRow, system: System) -> Recipe:
    """Return the recipe with a recomputation, and a note on each setting left open.

    It is that of the framework's own benchmark recipe, or without one the least that fits one GPU.
    """
    layout = recipe.layouts[system.name]
    unstated = ["recompute"]
    # Megatron-Bridge refuses the selective one of DeepSeek-V4, whose kernels are their own.
    has_own = bool(row.own_recompute) and recipe.model_config.compressed_attention is None
    if has_own:
        recompute = Recompute(row.own_recompute)
        source = f"as in {row.source}'s own recipe for it"
    else:
        recompute, source = _least_recomputation(resolve(recipe, system=system), system=system)
    chosen = [f"recomputation {recompute}, {source}"]
    if layout.shard_optimizer:
        unstated.append("shard_optimizer")
        chosen.append("optimizer states shared out among the ranks with the same weights")
    *notes, unprinted = recipe.notes
    notes.append("; ".join([unprinted, *chosen]) if unprinted else _UNPRINTED + "; ".join(chosen))
    return replace(recipe, recompute=recompute, unstated=tuple(unstated), notes=tuple(notes))


def _least_recomputation(plan: Plan, *, system: System) -> tuple[Recompute, str]:
    """Return the least recomputation that fits one GPU, or full if none does, with the reason in words."""
    if system.memory_gb is None:
        return Recompute.NONE, "for the memory of the system is not known"
    for recompute in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL):
        changed = replace(plan, recompute=recompute)
        if peak_memory_bytes(changed, rules=_memory_rules(changed)) <= system.memory_gb * 1e9:
            of_what = ", which counts activations from below" if uncounted_memory(plan) else ""
            return recompute, f"the least that fits by our pricing{of_what}"
    return Recompute.FULL, "and by our pricing not even that fits"


def _memory_rules(plan: Plan) -> MemoryRules:
    """Return the memory rules of the plan's framework."""
    if plan.framework == "nemo_rl":
        return nemo_rl_rules(plan, is_megatron=plan.framework_options["backend"] == "megatron")
    if plan.framework in ("megatron", "megatron_bridge"):
        return megatron_rules(plan)
    return native_rules(plan)


def release_word(row: PublishedRow) -> str:
    """Return a row's release as a part of case ids: lower case, without blanks."""
    return _UNSAFE.sub("_", row.release.lower()).strip("_.")


def is_published_case(case: str) -> bool:
    """Whether a case id is that of a published row's recipe, with --perf-set or without."""
    return _PUBLISHED_CASE.search(case.removesuffix(CHANGED_SUFFIX)) is not None


def _variant(row: PublishedRow) -> str:
    return f"pub.{release_word(row)}.{row.id}"


def _notes(row: PublishedRow, *, unprinted: Sequence[str]) -> tuple[str, ...]:
    """Return notes on a row's figures, its page's remarks, and last the settings that the page does not print."""
    figures = []
    for metric, text in row.printed.items():
        figures.append(f"{metric} {text}")
    notes = [f"published in {row.source} {row.release}, {row.url}: {', '.join(figures)}"]
    if row.is_draft and row.rollouts is not None:
        prompt = sample_tokens(row, row.rollouts) - row.rollouts.mean_response_len
        notes = [
            f"DRAFT figures of {row.source} {row.release}, never judged: {sample_text(row, row.rollouts)} tokens a "
            f"sample, {prompt:.0f} of them prompt"
        ]
    remarks = [*row.notes]
    if row.variant:
        remarks.insert(0, row.variant)
    if remarks:
        notes.append(f"the page's row: {'; '.join(remarks)}")
    notes.append(_UNPRINTED + "; ".join(unprinted) if unprinted else "")
    return tuple(notes)
