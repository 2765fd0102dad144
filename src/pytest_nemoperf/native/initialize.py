"""Weights from seeds: the same model in every layout, whatever part of it a rank holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.seeds import seeded_generator
from pytest_nemoperf.native.tensor_parallel import Part

_STD = 0.02


@torch.no_grad()
def initialize(
    model: Decoder,
    *,
    whole_shapes: Mapping[str, torch.Size],
    parts: Mapping[str, Part],
    seed: int,
    device: torch.device,
) -> None:
    """Allocate the model on the device and fill it.

    Every rank draws each whole weight in turn and keeps its part, so that memory never holds more than one
    whole weight and no communication is needed.

    Args:
        model: On the meta device, already split and sharded.
        whole_shapes: Shape of each weight before any axis took its part.
        parts: Part a rank of the tp axis holds; a weight that is absent is whole.
        seed: Of the weights.
        device: Where they go.
    """
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        whole = torch.empty(whole_shapes[name], device=device)
        if name.endswith("norm.weight"):
            whole.fill_(1)
        else:
            generator = seeded_generator(device, seed=seed, purpose=f"weight {name}")
            whole.normal_(0, _std(name, num_layers=model.config.num_layers), generator=generator)
        _fill(parameter, parts[name].take(whole) if name in parts else whole)
    cos_SC, sin_SC = rotary_angles(model.seq_len, size=model.config.head_dim, theta=model.config.rope_theta)
    model.cos_SC = cos_SC.to(device, model.dtype)
    model.sin_SC = sin_SC.to(device, model.dtype)


def rotary_angles(seq_len: int, *, size: int, theta: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each position's angles, (seq_len, size/2), in float64.

    References:
        Su et al. 2021, https://arxiv.org/abs/2104.09864, with pairs half a head apart as in Llama's releases.
    """
    frequencies_C = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles_SC = torch.outer(torch.arange(seq_len, dtype=torch.float64), frequencies_C)
    return angles_SC.cos(), angles_SC.sin()


def _std(name: str, *, num_layers: int) -> float:
    """Return the spread of a weight; products that add to the residual stream start smaller, as in GPT-2."""
    is_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
    return _STD / math.sqrt(2 * num_layers) if is_residual else _STD


def _fill(parameter: Tensor, part: Tensor) -> None:
    if isinstance(parameter, DTensor):
        # src_data_rank=None: every rank has the values, so it slices its own and nothing is sent.
        part = distribute_tensor(part, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
        parameter = parameter.to_local()
    parameter.copy_(part)
