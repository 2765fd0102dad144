"""Memory of generating ranks: their part of the weights, and the cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_nemoperf.layouts.shards import counted_shards, layers_of_stage
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import CompressedAttention, Layer, Mixer
from pytest_nemoperf.models.weights import num_kv_copies, num_local_kv_heads
from pytest_nemoperf.recipes.recipe import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationMemory:
    """Memory of the fullest generating rank, in bytes, under the native generator.

    Attributes:
        num_slots: Samples a replica decodes at once.
        weights: Its part of the weights, in the compute type.
        cache: Keys and values if every slot had the longest sample; an estimate from above. Under vLLM those of one
            such sample, the least it needs: its pages take the memory that is left, and samples wait for free ones.
        is_colocated: The training ranks generate; the memory of training adds to this.
        refit_bytes: Weights of all generating ranks, which a refit fills.
        num_kv_copies: Ranks of a replica that hold the same key-value heads.
        copied_weights: Part of the weights that is extra copies of key-value heads.
        copied_cache: The same of the cache.
    """

    num_slots: int
    weights: int
    cache: int
    is_colocated: bool
    refit_bytes: int
    num_kv_copies: int = 1
    copied_weights: int = 0
    copied_cache: int = 0

    @property
    def total(self) -> int:
        """Weights and cache."""
        return self.weights + self.cache


def generation_memory(plan: Plan) -> GenerationMemory | None:
    """Return the memory of generation; None for a workload without it."""
    rl = plan.rl
    generation = plan.layout.generation
    if rl is None or generation is None:
        return None
    # In fp8 vLLM's matrices have one byte, the bf16 ones that it loads them from have two.
    element = 4 if plan.generation_precision == "fp32" else 2
    num_copies = num_kv_copies(plan.model, tp=generation.tp)
    num_slots = rl.num_slots(dp=generation.dp)
    num_cached = 1 if rl.generator == "vllm" else num_slots
    longest = max(rl.max_lengths(seq_len=plan.seq_len))
    layer_cache = num_cached * longest * _cached_width(plan.model, tp=generation.tp) * element
    attention = plan.model.compressed_attention
    replica = generation.replica
    total_weights = weights = cache = copied = 0
    for pp_rank in range(generation.pp):
        stage_weights = stage_copied = stage_cache = 0
        for shard, count in counted_shards(plan.model, layout=replica, pp_rank=pp_rank):
            stage_weights += count * shard.numel * element
            stage_copied += count * shard.copied_numel * element
        for layer, count in layers_of_stage(plan.model, layout=replica, pp_rank=pp_rank).items():
            if layer.mixer is Mixer.ATTENTION:
                stage_cache += count * layer_cache
            elif attention is not None:
                width = _compressed_width(plan.model, attention, layer=layer, length=longest)
                stage_cache += count * num_cached * width * element
        total_weights += stage_weights
        if stage_weights + stage_cache > weights + cache:
            weights = stage_weights
            cache = stage_cache
            copied = stage_copied
    return GenerationMemory(
        num_slots=num_slots,
        weights=weights,
        cache=cache,
        is_colocated=generation.is_colocated,
        refit_bytes=total_weights * generation.tp * generation.dp,
        num_kv_copies=num_copies,
        copied_weights=copied * (num_copies - 1) // num_copies,
        copied_cache=cache * (num_copies - 1) // num_copies,
    )


def _compressed_width(model: ModelConfig, attention: CompressedAttention, *, layer: Layer, length: int) -> int:
    """Return elements of a sample in one layer: of its window, its compressed positions, and the indexer's."""
    width = min(layer.window or length, length) * model.head_dim
    if layer.compress_ratio:
        per_position = model.head_dim
        if attention.has_indexer(layer.compress_ratio):
            per_position += attention.index_head_dim
        width += length // layer.compress_ratio * per_position
    return width


def _cached_width(model: ModelConfig, *, tp: int) -> int:
    """Return elements of a token's keys and values in one layer of a rank; latent ones are kept expanded."""
    per_head = 2 * model.head_dim
    if model.mla is not None:
        per_head = model.mla.qk_nope_head_dim + model.mla.qk_rope_head_dim + model.mla.v_head_dim
    return int(num_local_kv_heads(model, tp=tp) * per_head)
