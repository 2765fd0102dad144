"""Decoder layer: norms, attention, and an MLP or a mixture of experts."""

# T = B*S tokens (this rank's part under sequence parallelism), D hidden

from __future__ import annotations

from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import FeedForward, Layer, Mixer
from pytest_nemoperf.native.model.attention import Attention
from pytest_nemoperf.native.model.attention_core import Masks
from pytest_nemoperf.native.model.layers import make_norm
from pytest_nemoperf.native.model.mla import LatentAttention
from pytest_nemoperf.native.model.mlp import MLP
from pytest_nemoperf.native.model.moe import MixtureOfExperts
from pytest_nemoperf.native.model.rope import Positions


class Block(nn.Module):
    """Decoder layer with norms before the sub-layers and, in some families, after them.

    Args:
        config: Architecture.
        layer: Sub-layers of this layer.
        masks: Cache shared by the layers of a model.
        is_router_balanced: Route tokens to the experts in turn.
    """

    def __init__(self, config: ModelConfig, layer: Layer, *, masks: Masks, is_router_balanced: bool) -> None:
        super().__init__()
        has_post_norms = config.has_post_norms
        self.attention: Attention | LatentAttention | None = None
        if layer.mixer is Mixer.ATTENTION:
            self.attention_norm = make_norm(config)
            kind = Attention if config.mla is None else LatentAttention
            self.attention = kind(config, layer, masks=masks)
            self.attention_post_norm = make_norm(config) if has_post_norms else None
        self.mlp: MLP | None = None
        self.moe: MixtureOfExperts | None = None
        if layer.feed_forward is FeedForward.MOE:
            self.moe = MixtureOfExperts(config, is_balanced=is_router_balanced)
        elif layer.feed_forward is FeedForward.DENSE:
            self.mlp = MLP(config, width=config.ffn_hidden_size)
        if layer.feed_forward is not None:
            self.mlp_norm = make_norm(config)
            self.mlp_post_norm = make_norm(config) if has_post_norms else None

    def forward(self, x_TD: Tensor, positions: Positions) -> Tensor:
        """Return the residual stream after this layer."""
        if self.attention is not None:
            out_TD = self.attention.out.add_bias(self.attention(self.attention_norm(x_TD), positions))
            if self.attention_post_norm is not None:
                out_TD = self.attention_post_norm(out_TD)
            x_TD = x_TD + out_TD
        if self.mlp is None and self.moe is None:
            return x_TD
        normed_TD = self.mlp_norm(x_TD)
        if self.mlp is not None:
            out_TD = self.mlp.down.add_bias(self.mlp(normed_TD))
        else:
            assert self.moe is not None  # noqa: S101 (one of them is there)
            out_TD = self.moe(normed_TD)
        if self.mlp_post_norm is not None:
            out_TD = self.mlp_post_norm(out_TD)
        return x_TD + out_TD
