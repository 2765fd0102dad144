"""Model architectures: the numbers FLOPs, plans and the native engine need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from types import MappingProxyType

from pytest_nemoperf.errors import RecipeError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A dense decoder: RMSNorm, RoPE, grouped-query attention, gated (SwiGLU) MLP.

    Attributes:
        name: Catalog name, or your own; part of the case id.
        hidden_size: Width of the residual stream (D).
        num_layers: Decoder blocks.
        num_heads: Query heads.
        num_kv_heads: Key and value heads; divides num_heads.
        head_dim: Width of one head.
        ffn_hidden_size: Width of the MLP.
        vocab_size: Rows of the embedding table, unpadded.
        tied_embeddings: The output head uses the embedding table.
        rope_theta: Base of the rotary frequencies.
        norm_eps: Epsilon of RMSNorm.

    Raises:
        RecipeError: If a size is not positive or heads don't divide.
    """

    name: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    tied_embeddings: bool = False
    rope_theta: float = 500_000.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if isinstance(size, (int, float)) and not isinstance(size, bool) and not size > 0:
                raise RecipeError(f"model {self.name}: {field.name}={size} must be positive")
        if self.num_heads % self.num_kv_heads:
            raise RecipeError(
                f"model {self.name}: num_kv_heads={self.num_kv_heads} does not divide num_heads={self.num_heads}; "
                "every key-value head serves the same number of query heads"
            )
        if self.head_dim % 2:
            raise RecipeError(f"model {self.name}: head_dim={self.head_dim} must be even for RoPE")

    @property
    def num_parameters(self) -> int:
        """Parameters of the whole model, norms included; a tied head counts once."""
        attention = self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)
        mlp = 3 * self.hidden_size * self.ffn_hidden_size
        block = attention + mlp + 2 * self.hidden_size
        tables = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.num_layers * block + tables + self.hidden_size


@cache
def model_catalog() -> Mapping[str, ModelConfig]:
    """Return every catalog model by name; the figures and their sources are in ``catalog/models.json``."""
    text = resources.files("pytest_nemoperf").joinpath("catalog", "models.json").read_text(encoding="utf-8")
    entries = json.loads(text)["models"]
    known = {field.name for field in fields(ModelConfig)}
    return MappingProxyType(
        {
            name: ModelConfig(name=name, **{key: value for key, value in entry.items() if key in known})
            for name, entry in entries.items()
        }
    )


def find_model(name: str) -> ModelConfig:
    """Return the catalog model of that name.

    Raises:
        RecipeError: If the catalog has no such model.
    """
    catalog = model_catalog()
    if name not in catalog:
        raise RecipeError(f"unknown model {name!r}; {did_you_mean(name, catalog)}; or pass a ModelConfig")
    return catalog[name]
