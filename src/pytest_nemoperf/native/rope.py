"""Rotary positions: which angle each pair of a head's columns turns by."""

# S tokens of a sequence (this rank's), R rotated pairs of a head

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import Layer, RopeScaling

Table = Literal["global", "local", "none"]


class Positions(NamedTuple):
    """What a layer knows about the places of this rank's tokens in their sequences.

    Attributes:
        index_S: Numbers of the positions.
        angles: Cosines and sines of each position's angles, (S, R); None in a layer without rotary positions.
        lens: Of a row that holds several samples: how many of these positions each has; empty for one.
    """

    index_S: Tensor
    angles: tuple[Tensor, Tensor] | None = None
    lens: tuple[int, ...] = ()


Tables = Mapping[Table, Positions]
"""What all layers of a model look up, by table."""


def table_of(config: ModelConfig, layer: Layer) -> Table:
    """Return which table of angles a layer uses: ``local`` where layers with a window have a base of their own."""
    if not layer.has_rope or config.max_positions is not None:
        return "none"
    return "local" if layer.window is not None and config.rope_local_theta is not None else "global"


def tabulate(
    config: ModelConfig, *, index_S: Tensor, dtype: torch.dtype, device: torch.device
) -> dict[Table, Positions]:
    """Return what the layers of a model look up about these positions.

    Args:
        config: Architecture.
        index_S: Numbers of the positions, on the CPU.
        dtype: Of the angles' cosines and sines.
        device: Where they go.
    """
    tables: dict[Table, Positions] = {"none": Positions(index_S.to(device))}
    kinds = {table_of(config, layer) for layer in (*config.layers, config.mtp_layer)}
    for table in sorted(kinds - {"none"}):
        scaling = None if table == "local" else config.rope_scaling
        theta = config.rope_theta if table == "global" else config.rope_local_theta
        assert theta is not None  # noqa: S101 (no layer has a local table without it)
        cos_SR, sin_SR = rotary_angles(index_S, rotary_frequencies(rotary_size(config), theta=theta, scaling=scaling))
        factor = attention_factor(scaling)
        angles = ((cos_SR * factor).to(device, dtype), (sin_SR * factor).to(device, dtype))
        tables[table] = Positions(index_S.to(device), angles)
    return tables


def at_places(tables: Tables, index_T: Tensor, *, lens: tuple[int, ...] = ()) -> Tables:
    """Return the rows of the tables that belong to some positions, in any order and as often as they are asked for.

    Args:
        tables: Of the positions 0, 1, 2 ..., from tabulate.
        index_T: Numbers of positions, on the device of the tables.
        lens: How many of them each sample of a packed row has; empty where a row is one sample.
    """
    return {
        name: Positions(
            index_T,
            None if table.angles is None else (table.angles[0][index_T], table.angles[1][index_T]),
            lens,
        )
        for name, table in tables.items()
    }


def first_places(tables: Tables, num_places: int) -> Tables:
    """Return the first rows of the tables, without a copy."""
    return {
        name: Positions(
            table.index_S[:num_places],
            None if table.angles is None else (table.angles[0][:num_places], table.angles[1][:num_places]),
        )
        for name, table in tables.items()
    }


def rotary_size(config: ModelConfig) -> int:
    """Return how many columns of a query or key head are rotated."""
    if config.mla is not None:
        return config.mla.qk_rope_head_dim
    return config.head_dim if config.rope_dim is None else config.rope_dim


def rotary_angles(index_S: Tensor, frequencies_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each position's angles, in float64."""
    angles_SR = torch.outer(index_S.to(torch.float64), frequencies_R)
    return angles_SR.cos(), angles_SR.sin()


def rotary_frequencies(size: int, *, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Return the angle per position of each pair of columns, in float64.

    Args:
        size: Rotated columns; pairs are half of them apart, as in Llama's releases.
        theta: Base.
        scaling: How they are stretched for long contexts; None for not.

    References:
        Su et al. 2021, https://arxiv.org/abs/2104.09864; of the scalings, see RopeScaling.
    """
    frequencies_R = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    if scaling is None:
        return frequencies_R
    match scaling.kind:
        case "linear":
            share_R = torch.zeros_like(frequencies_R)
        case "llama3":
            turns_R = scaling.original_context * frequencies_R / (2 * math.pi)
            share_R = (turns_R - scaling.low_freq) / (scaling.high_freq - scaling.low_freq)
        case "yarn":
            share_R = _yarn_share(size, theta=theta, scaling=scaling)
    share_R = share_R.clamp(0, 1)
    return frequencies_R * (share_R + (1 - share_R) / scaling.factor)


def attention_factor(scaling: RopeScaling | None) -> float:
    """Return what multiplies cosines and sines (YaRN, https://arxiv.org/abs/2309.00071, section 3.4)."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return yarn_growth(scaling.factor, 1.0) if scaling.attention_factor is None else scaling.attention_factor


def score_factor(scaling: RopeScaling | None) -> float:
    """Return what multiplies attention scores beside their usual scale (DeepSeek's mscale_all_dim)."""
    if scaling is None or not scaling.softmax_mscale:
        return 1.0
    return yarn_growth(scaling.factor, scaling.softmax_mscale) ** 2


def yarn_growth(factor: float, mscale: float) -> float:
    """Return 0.1 m ln(factor) + 1, and 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _yarn_share(size: int, *, theta: float, scaling: RopeScaling) -> Tensor:
    """Return which share of each frequency stays as it is: all of the fast ones, none of the slow ones."""

    def pair_with(turns: float) -> float:
        """Return the pair, a fraction, that turns so often within the original context."""
        return size * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_with(scaling.high_freq), pair_with(scaling.low_freq)
    if scaling.truncates:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    if first == last:
        last += 0.001
    return 1 - ((torch.arange(size // 2, dtype=torch.float64) - first) / (last - first)).clamp(0, 1)
