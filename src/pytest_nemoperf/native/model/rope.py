"""Rotary position embeddings (RoPE) and the position tables of a model."""

# S tokens of a sequence (this rank's), R rotated pairs of a head

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Layer, RopeScaling

TableName = Literal["global", "local", "none"]


class Positions(NamedTuple):
    """Positions of this rank's tokens in their sequences, with a layer's rotary angles.

    Attributes:
        index_S: Indices of the positions.
        angles: Cosines and sines of each position's angles, (S, R); None in a layer without rotary positions.
        lens: Tokens of each sample of a packed row; empty if a row is one sample.
    """

    index_S: Tensor
    angles: tuple[Tensor, Tensor] | None = None
    lens: tuple[int, ...] = ()


PositionTables = Mapping[TableName, Positions]
"""Positions for all layers of a model, by table."""


def table_name(config: ModelConfig, layer: Layer) -> TableName:
    """Return the table a layer uses; ``local`` is for layers with a window, if they have a base of their own."""
    if not layer.has_rope or config.max_positions is not None:
        return "none"
    if layer.window is not None and config.rope_local_theta is not None:
        return "local"
    return "global"


def position_tables(
    config: ModelConfig, *, index_S: Tensor, dtype: torch.dtype, device: torch.device
) -> dict[TableName, Positions]:
    """Compute the position tables of a model.

    Args:
        config: Architecture.
        index_S: Indices of the positions, on the CPU.
        dtype: Dtype of cosines and sines.
        device: Device of the tables.
    """
    tables: dict[TableName, Positions] = {"none": Positions(index_S.to(device))}
    used = {table_name(config, layer) for layer in (*config.layers, config.mtp_layer)}
    for table in sorted(used - {"none"}):
        theta: float | None = config.rope_theta
        scaling = config.rope_scaling
        if table == "local":
            theta = config.rope_local_theta
            scaling = None
        assert theta is not None  # noqa: S101 (no layer has a local table without it)
        frequencies_R = _rotary_frequencies(_rotary_size(config), theta=theta, scaling=scaling)
        cos_SR, sin_SR = _rotary_angles(index_S, frequencies_R)
        factor = attention_factor(scaling)
        angles = ((cos_SR * factor).to(device, dtype), (sin_SR * factor).to(device, dtype))
        tables[table] = Positions(index_S.to(device), angles)
    return tables


def gather_positions(tables: PositionTables, index_T: Tensor, *, lens: tuple[int, ...] = ()) -> PositionTables:
    """Gather rows of the tables, in any order and with repeats.

    Args:
        tables: Tables of the positions 0, 1, 2 ..., from position_tables.
        index_T: Indices of the rows, on the device of the tables.
        lens: Tokens of each sample of a packed row; empty if a row is one sample.
    """
    gathered: dict[TableName, Positions] = {}
    for name, table in tables.items():
        angles = None
        if table.angles is not None:
            cos_SR, sin_SR = table.angles
            angles = (cos_SR[index_T], sin_SR[index_T])
        gathered[name] = Positions(index_T, angles, lens)
    return gathered


def first_positions(tables: PositionTables, num_positions: int) -> PositionTables:
    """Return the first rows of the tables, without a copy."""
    first: dict[TableName, Positions] = {}
    for name, table in tables.items():
        angles = None
        if table.angles is not None:
            cos_SR, sin_SR = table.angles
            angles = (cos_SR[:num_positions], sin_SR[:num_positions])
        first[name] = Positions(table.index_S[:num_positions], angles)
    return first


def _rotary_size(config: ModelConfig) -> int:
    """Return the number of rotated columns of a query or key head."""
    if config.mla is not None:
        return config.mla.qk_rope_head_dim
    return config.head_dim if config.rope_dim is None else config.rope_dim


def _rotary_angles(index_S: Tensor, frequencies_R: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of each position's angles (S, R), in float64."""
    angles_SR = torch.outer(index_S.to(torch.float64), frequencies_R)
    return angles_SR.cos(), angles_SR.sin()


def _rotary_frequencies(size: int, *, theta: float, scaling: RopeScaling | None = None) -> Tensor:
    """Return the angle per position of each pair of columns (R), in float64.

    Args:
        size: Number of rotated columns; pairs are half of them apart, as in Llama's releases.
        theta: Base.
        scaling: Scaling for long contexts; None for none.

    References:
        Su et al. 2021, https://arxiv.org/abs/2104.09864; for the scalings, see RopeScaling.
    """
    frequencies_R = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    if scaling is None:
        return frequencies_R
    match scaling.kind:
        case "linear":
            unscaled_R = torch.zeros_like(frequencies_R)
        case "llama3":
            turns_R = scaling.original_context * frequencies_R / (2 * math.pi)
            unscaled_R = (turns_R - scaling.low_freq) / (scaling.high_freq - scaling.low_freq)
        case "yarn":
            unscaled_R = _yarn_unscaled(size, theta=theta, scaling=scaling)
    unscaled_R = unscaled_R.clamp(0, 1)
    return frequencies_R * (unscaled_R + (1 - unscaled_R) / scaling.factor)


def attention_factor(scaling: RopeScaling | None) -> float:
    """Return the factor of cosines and sines (YaRN, https://arxiv.org/abs/2309.00071, section 3.4)."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return _yarn_mscale(scaling.factor, 1.0)


def score_factor(scaling: RopeScaling | None) -> float:
    """Return the factor of attention scores beside their usual scale (DeepSeek's mscale_all_dim)."""
    if scaling is None or not scaling.softmax_mscale:
        return 1.0
    return _yarn_mscale(scaling.factor, scaling.softmax_mscale) ** 2


def _yarn_mscale(factor: float, mscale: float) -> float:
    """Return 0.1 m ln(factor) + 1, or 1 for factors up to 1."""
    if factor <= 1:
        return 1.0
    return 0.1 * mscale * math.log(factor) + 1.0


def _yarn_unscaled(size: int, *, theta: float, scaling: RopeScaling) -> Tensor:
    """Return YaRN's ramp (R): the unscaled fraction of each frequency, 1 for the fast ones, 0 for the slow ones."""

    def pair_with(turns: float) -> float:
        """Return the pair, a fraction, that makes that many turns within the original context."""
        return size * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_with(scaling.high_freq)
    last = pair_with(scaling.low_freq)
    if scaling.truncates:
        first = math.floor(first)
        last = math.ceil(last)
    first = max(first, 0)
    last = min(last, size - 1)
    if first == last:
        last += 0.001
    return 1 - ((torch.arange(size // 2, dtype=torch.float64) - first) / (last - first)).clamp(0, 1)
