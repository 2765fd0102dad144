"""Weights of Megatron-Core's modules: the values that the native engine starts from, in Megatron-Core's order."""

# R rows of a matrix, D columns

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from pytest_nemoperf.models.weights import Weight, model_weights
from pytest_nemoperf.native.parallel.initialize import draw_expert, draw_shard
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.sharding import local_experts
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.trainers.weights import by_query_group

_IN_LAYER: Final = re.compile(r"decoder\.layers\.(\d+)\.(.*)")
_LAYER: Final = re.compile(r"decoder\.layers\.(\d+)")
# Megatron-Core's own experts are modules, transformer-engine's are numbered weights of one module.
_EXPERT: Final = re.compile(
    r"mlp\.experts\.(?:local_experts\.(?P<module>\d+)\.)?linear_fc(?P<fc>[12])\.(?P<kind>weight|bias)(?P<number>\d*)"
)
_OUTSIDE: Final = {
    "embedding.word_embeddings.weight": "embedding.weight",
    "embedding.position_embeddings.weight": "positions.weight",
    "decoder.final_layernorm.weight": "norm.weight",
    "decoder.final_layernorm.bias": "norm.bias",
    "output_layer.weight": "head.weight",
}
_ROTATED_KEY: Final = "attention.kv_down.weight"
_ROTATED: Final = ("attention.q.weight", "attention.q_up.weight", _ROTATED_KEY)
"""Matrices of latent attention with rows that are rotated."""
_BEGINNINGS: Final = {
    "input_layernorm.": "attention_norm.",
    # transformer-engine fuses a norm with the matrix behind it.
    "self_attention.linear_qkv.layer_norm_": "attention_norm.",
    "self_attention.linear_qkv.": "attention.qkv.",
    "self_attention.linear_proj.": "attention.out.",
    "self_attention.core_attention.softmax_offset": "attention.sinks",
    "self_attention.q_layernorm.": "attention.q_norm.",
    "self_attention.k_layernorm.": "attention.k_norm.",
    "self_attention.linear_q_proj.": "attention.q.",
    "self_attention.linear_q_down_proj.": "attention.q_down.",
    "self_attention.linear_q_up_proj.layer_norm_": "attention.q_down_norm.",
    "self_attention.linear_q_up_proj.": "attention.q_up.",
    "self_attention.linear_kv_down_proj.": "attention.kv_down.",
    "self_attention.linear_kv_up_proj.layer_norm_": "attention.kv_down_norm.",
    "self_attention.linear_kv_up_proj.": "attention.kv_up.",
    "self_attention.kv_layernorm.": "attention.kv_down_norm.",
    "pre_mlp_layernorm.": "mlp_norm.",
    "mlp.linear_fc1.layer_norm_": "mlp_norm.",
    "mlp.linear_fc1.": "mlp.{first}.",
    "mlp.linear_fc2.": "mlp.down.",
    "mlp.router.": "moe.router.",
    "mlp.shared_experts.linear_fc1.": "moe.shared.{first}.",
    "mlp.shared_experts.linear_fc2.": "moe.shared.down.",
    "mlp.shared_experts.gate_weight": "moe.shared_gate.weight",
}


@torch.no_grad()
def fill_weights(chunk: nn.Module, *, plan: Plan, mesh: RankMesh) -> None:
    """Fill the parameters of a rank's part of the model.

    Raises:
        KeyError: If Megatron-Core has a parameter that is not known here.
    """
    weights = _Weights(plan=plan, mesh=mesh, by_name={weight.name: weight for weight in model_weights(plan.model)})
    numbers = {}
    for name, module in chunk.named_modules():
        match = _LAYER.fullmatch(name)
        if match is not None:
            numbers[match[1]] = int(module.layer_number) - 1
    for name, parameter in chunk.named_parameters():
        match = _IN_LAYER.fullmatch(name)
        if match is None:
            parameter.copy_(weights.outside(name, like=parameter))
        else:
            parameter.copy_(weights.in_layer(numbers[match[1]], match[2], like=parameter))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Weights:
    """Weights of the native engine by Megatron-Core's names."""

    plan: Plan
    mesh: RankMesh
    by_name: Mapping[str, Weight]

    def outside(self, name: str, *, like: Tensor) -> Tensor:
        """Return this rank's shard of a weight outside the layers; a tied head is a copy on the last stage."""
        ours = _OUTSIDE[name]
        if ours == "head.weight" and self.plan.model.tied_embeddings:
            ours = "embedding.weight"
        return self._shard(ours, like=like)

    def in_layer(self, layer: int, name: str, *, like: Tensor) -> Tensor:
        """Return this rank's shard of a layer's weight."""
        model = self.plan.model
        first = "gate_up" if model.activation.is_gated else "up"
        expert = _EXPERT.fullmatch(name)
        if expert is not None:
            part = first if expert["fc"] == "1" else "down"
            weight = self.by_name[f"blocks.{layer}.moe.experts.{part}.{expert['kind']}"]
            number = local_experts(weight.shape[0], mesh=self.mesh)[0] + int(expert["module"] or expert["number"])
            return draw_expert(
                weight,
                expert=number,
                num_layers=model.num_layers,
                mesh=self.mesh,
                seed=self.plan.seed,
                device=like.device,
            )
        ours = _native_name(name, first=first, has_latents=model.mla is not None)
        shard = self._shard(f"blocks.{layer}.{ours}", like=like)
        if ours.startswith("attention.qkv."):
            return by_query_group(shard, model=model)
        if model.mla is not None and ours in _ROTATED:
            shard = self._with_pairs(shard, is_query=ours != _ROTATED_KEY)
        if self.mesh.tp is not None and shard.shape[0] > like.shape[0]:
            # Megatron-Core's own layers cut the projections to latent vectors, too, and gather what they give.
            shard = shard.chunk(self.mesh.tp.size())[self.mesh.tp.rank()]
        return shard

    def _shard(self, name: str, *, like: Tensor) -> Tensor:
        return draw_shard(
            self.by_name[name],
            num_layers=self.plan.model.num_layers,
            mesh=self.mesh,
            seed=self.plan.seed,
            device=like.device,
        )

    def _with_pairs(self, rows_RD: Tensor, *, is_query: bool) -> Tensor:
        """Return rows with those of each rotated pair side by side; ours are half of the rotated part apart.

        Megatron-Core's latent attention moves them apart before it rotates them.
        """
        mla = self.plan.model.mla
        assert mla is not None  # noqa: S101 (the caller checked it)
        num_plain = mla.qk_nope_head_dim if is_query else mla.kv_lora_rank
        width = num_plain + mla.qk_rope_head_dim
        heads = torch.unflatten(rows_RD, 0, (-1, width))
        plain, rotated = torch.split(heads, [num_plain, mla.qk_rope_head_dim], dim=1)
        pairs = torch.unflatten(rotated, 1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return torch.cat([plain, pairs], dim=1).flatten(0, 1)


def _native_name(name: str, *, first: str, has_latents: bool) -> str:
    """Return the native engine's name of a layer's weight."""
    if has_latents and name.startswith("self_attention.q_layernorm."):
        return name.replace("self_attention.q_layernorm.", "attention.q_down_norm.")
    for beginning in sorted(_BEGINNINGS, key=len, reverse=True):
        if name.startswith(beginning):
            return _BEGINNINGS[beginning].format(first=first) + name.removeprefix(beginning)
    raise KeyError(name)
