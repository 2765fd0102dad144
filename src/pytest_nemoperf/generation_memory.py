"""What a rank keeps while it generates: its part of the weights, and the cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nemoperf.activations import compute_bytes
from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import Mixer
from pytest_nemoperf.parallelism import GenerationLayout
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.rl import RL
from pytest_nemoperf.shards import stage_parts
from pytest_nemoperf.stages import stage_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMemory:
    """Memory of the fullest rank that generates, in bytes; the native generator's.

    Attributes:
        num_slots: Samples a replica decodes at once.
        weights: Its part, in the compute type.
        cache: Keys and values of as many of the longest samples as there are slots; an estimate from above.
        is_colocated: The ranks that train generate as well; their own memory comes on top.
        refit_bytes: Weights of all ranks that generate: what a refit fills.
    """

    num_slots: int
    weights: int
    cache: int
    is_colocated: bool
    refit_bytes: int

    @property
    def total(self) -> int:
        """Both of them."""
        return self.weights + self.cache


def generation_memory(plan: Plan) -> GenerationMemory | None:
    """Return the memory of generation; None for a workload without it."""
    rl, generation = plan.rl, plan.layout.generation
    if rl is None or generation is None:
        return None
    stages = range(generation.pp)
    weights = [_weight_bytes(plan, generation=generation, pp_rank=pp_rank) for pp_rank in stages]
    cache = [_cache_bytes(plan, rl=rl, generation=generation, pp_rank=pp_rank) for pp_rank in stages]
    fullest = max(stages, key=lambda pp_rank: weights[pp_rank] + cache[pp_rank])
    return GenerationMemory(
        num_slots=rl.num_slots(dp=generation.dp),
        weights=weights[fullest],
        cache=cache[fullest],
        is_colocated=generation.is_colocated,
        refit_bytes=sum(weights) * generation.tp * generation.dp,
    )


def _weight_bytes(plan: Plan, *, generation: GenerationLayout, pp_rank: int) -> int:
    numel = sum(part.numel for part in stage_parts(plan.model, layout=generation.replica, pp_rank=pp_rank))
    return numel * compute_bytes(plan.precision)


def _cache_bytes(plan: Plan, *, rl: RL, generation: GenerationLayout, pp_rank: int) -> int:
    layers = plan.model.layers
    chunks = stage_layers(plan.model, pp=generation.pp, vp=1)[pp_rank]
    num_layers = sum(layers[index].mixer is Mixer.ATTENTION for chunk in chunks for index in chunk)
    width = _cached_width(plan.model) // generation.tp
    slots = rl.num_slots(dp=generation.dp)
    return slots * max(rl.most_lengths()) * num_layers * width * compute_bytes(plan.precision)


def _cached_width(model: ModelConfig) -> int:
    """Return the elements of one token's keys and values in one layer; multi-head latent ones are kept expanded."""
    if model.mla is None:
        return 2 * model.num_kv_heads * model.head_dim
    mla = model.mla
    return model.num_heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim)
