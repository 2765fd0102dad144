"""Decoder with embedding, blocks, head and loss, written for one process; parallelism is applied from outside.

Tokens of a micro-batch are one dimension, because all but attention works token by token.
"""

# B sequences of a micro-batch, S tokens of a sequence, T = B*S tokens (this rank's part between blocks under
# sequence parallelism), N next tokens of each, K columns of an objective's terms, D hidden, V vocabulary (this
# rank's part under tensor parallelism)

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch
from torch import Tensor, nn

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Layer
from pytest_nemoperf.models.trainable import unsupported_model
from pytest_nemoperf.native.model.attention_core import Masks
from pytest_nemoperf.native.model.block import Block
from pytest_nemoperf.native.model.layers import (
    Embedding,
    LayerNorm,
    LearnedPositions,
    RMSNorm,
    in_dtype,
    make_norm,
    plain_product,
)
from pytest_nemoperf.native.model.mtp import LOSS_WEIGHT, MTPDepth
from pytest_nemoperf.native.model.operators import cross_entropy
from pytest_nemoperf.native.model.rope import Positions, PositionTables, TableName, position_tables, table_name
from pytest_nemoperf.native.model.value_head import ValueHead

Objective = Callable[..., Tensor]
"""Training objective: maps the head's output (T) and the terms of each token, (T, K) or None, to a scalar."""


def token_outputs(output_T: Tensor, terms_TK: Tensor | None) -> Tensor:
    """Objective of a forward-only pass: return the head's output (T) unchanged."""
    del terms_TK  # used by training alone
    return output_T


def _next_token_loss(logprob_T: Tensor, terms_TK: Tensor | None) -> Tensor:
    """Return the pre-training loss, summed over the tokens."""
    del terms_TK  # every token counts the same
    return -logprob_T.sum()


class LossHead(nn.Module):
    """Output head; tensor parallelism replaces ``cross_entropy`` by one over shards of the vocabulary.

    ``product`` is that of Linear. ``temperature`` divides the logits, as in the sampling of responses. ``cast`` maps
    the weight and a dtype to the weight in that dtype.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = None
        if not config.tied_embeddings:
            self.weight = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.scale = config.logit_scale
        self.softcap = config.final_softcap
        self.temperature = 1.0
        self.product: Callable[[Tensor, Tensor, Tensor | None], Tensor] = plain_product
        self.cast: Callable[[Tensor, torch.dtype], Tensor] = in_dtype
        self.cross_entropy: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    def forward(self, x_TD: Tensor, labels_T: Tensor, tied_weight_VD: Tensor | None) -> Tensor:
        """Return the log-probability of each label (T); a tied head uses the embedding table."""
        logits_TV = self.logits(x_TD, tied_weight_VD)
        if self.temperature != 1:
            logits_TV = logits_TV.float() / self.temperature  # as generation divides them
        return -self.cross_entropy(logits_TV, labels_T)

    def logits(self, x_TD: Tensor, tied_weight_VD: Tensor | None) -> Tensor:
        """Return the logits of each token (T, V)."""
        weight_VD = tied_weight_VD if self.weight is None else self.weight
        assert weight_VD is not None  # noqa: S101 (one of them is there)
        logits_TV = self.product(x_TD, self.cast(weight_VD, x_TD.dtype), None)
        if self.scale != 1:
            logits_TV = logits_TV * self.scale
        if self.softcap is not None:
            logits_TV = torch.tanh(logits_TV / self.softcap) * self.softcap
        return logits_TV


class Decoder(nn.Module):
    """Embedding, blocks, norm, head and loss, or the part of them on one pipeline stage.

    ``positions_S`` are the positions of this rank's tokens in their sequences; context parallelism sets a rank's own
    before ``tabulate_positions`` is called. For rows of another length, or packed rows, set ``tables`` before the
    pass. The last stage returns ``objective`` of the head's outputs.

    Args:
        config: Architecture.
        seq_len: Tokens per sequence (S).
        dtype: Number format of activations and matrix products; parameters are fp32 master weights.
        layers: Layers of this stage; None for all. Blocks are named by their number in the whole model.
        is_first: The stage has the embedding.
        is_last: The stage has the norm, the head and the loss, the blocks of multi-token prediction, and the
            embedding if one of these needs it.
        is_router_balanced: Route tokens to the experts in turn, not by the router's scores.

    Raises:
        PlanError: If this engine doesn't train the architecture.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        seq_len: int,
        dtype: torch.dtype,
        layers: range | None = None,
        is_first: bool = True,
        is_last: bool = True,
        is_router_balanced: bool = False,
    ) -> None:
        super().__init__()
        problem = unsupported_model(config)
        if problem is not None:
            raise PlanError(problem)
        self.config = config
        self.seq_len = seq_len
        self.dtype = dtype
        self.is_first = is_first
        self.is_last = is_last
        masks = Masks()

        def make_block(layer: Layer) -> Block:
            return Block(config, layer, masks=masks, is_router_balanced=is_router_balanced)

        self.embedding: Embedding | None = None
        if is_first or (is_last and (config.tied_embeddings or config.mtp_num_layers)):
            self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.positions: LearnedPositions | None = None
        if is_first and config.max_positions is not None:
            self.positions = LearnedPositions(config.max_positions, config.hidden_size)
        if layers is None:
            layers = range(config.num_layers)
        self.blocks = nn.ModuleDict()
        self._block_tables: list[TableName] = []
        for index in layers:
            layer = config.layers[index]
            self.blocks[str(index)] = make_block(layer)
            self._block_tables.append(table_name(config, layer))
        self.norm: RMSNorm | LayerNorm | None = None
        self.head: LossHead | ValueHead | None = None
        if is_last:
            self.norm = make_norm(config)
            self.head = ValueHead(config.hidden_size) if config.has_value_head else LossHead(config)
        self.mtp = nn.ModuleDict()
        num_depths = config.num_mtp_blocks if is_last else 0
        for depth in range(num_depths):
            self.mtp[str(depth)] = MTPDepth(config, make_block(config.mtp_layer))
        # Plain tensors: DDP would broadcast buffers in every step.
        self.positions_S = torch.arange(seq_len, device="cpu")
        self.tables: PositionTables = {}
        self.objective: Objective = _next_token_loss

    def tabulate_positions(self, device: torch.device) -> None:
        """Compute the position tables of ``positions_S`` on the device."""
        self.tables = position_tables(self.config, index_S=self.positions_S, dtype=self.dtype, device=device)

    def positions_of(self, layer: Layer) -> Positions:
        """Return the position table of a layer."""
        return self.tables[table_name(self.config, layer)]

    def forward(self, x: Tensor, labels_BSN: Tensor, terms_BSK: Tensor | None = None) -> Tensor:
        """Return the residual stream (T, D), or the objective summed over the micro-batch, an fp32 scalar.

        Args:
            x: Tokens (B, S) on the first stage, the residual stream (T, D) of the stage before on others.
            labels_BSN: The next N tokens of each position, one more than the model predicts further ahead; used by
                the last stage.
            terms_BSK: Terms of the objective for each position; None if it has none.
        """
        x = self.hidden(x)
        if self.norm is None:
            return x
        x = self.norm(x)
        labels_BS, *labels_ahead = labels_BSN.unbind(-1)
        terms_TK = None if terms_BSK is None else terms_BSK.flatten(0, 1)
        loss = self.objective(self._output_T(x, labels_BS), terms_TK)
        depths = cycle(self.mtp.values())  # one block may serve all depths
        for module, tokens_BS, labels_BS in zip(depths, labels_BSN.unbind(-1), labels_ahead, strict=False):
            x = module(self._embed(tokens_BS), x, self.positions_of(self.config.mtp_layer))
            ahead = _next_token_loss(self._output_T(x, labels_BS), None)
            loss = loss + LOSS_WEIGHT / self.config.mtp_num_layers * ahead
        return loss

    def through_no_layer(self, x: Tensor) -> Tensor:
        """Return a copy of the input: the pass that a wrapper of the model takes for one of the model."""
        return x.clone()

    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Return the logits of every position (B, S, V); for a whole model, not for a stage."""
        return torch.unflatten(self.head_logits(self.hidden(tokens_BS)), 0, tokens_BS.shape)

    def head_logits(self, x_TD: Tensor) -> Tensor:
        """Return the logits (T, V), given the residual stream after the last block; on the last stage."""
        assert self.norm is not None and isinstance(self.head, LossHead)  # noqa: S101, PT018 (a policy's last stage)
        return self.head.logits(self.norm(x_TD), self._tied_weight_VD())

    def hidden(self, x: Tensor) -> Tensor:
        """Return the residual stream (T, D) after this stage's blocks; ``x`` as in ``forward``."""
        if self.is_first:
            x = self._embed(x)
        for table, block in zip(self._block_tables, self.blocks.values(), strict=True):
            x = block(x, self.tables[table])
        return x

    def _embed(self, tokens_BS: Tensor) -> Tensor:
        assert self.embedding is not None  # noqa: S101 (the first stage has it, and one that predicts further ahead)
        x_TD: Tensor = self.embedding(tokens_BS.flatten()).to(self.dtype)
        if self.config.embedding_scale != 1:
            x_TD = x_TD * self.config.embedding_scale
        if self.positions is not None:
            x_TD = self.positions(x_TD, self.positions_of(self.config.layers[0]).index_S.repeat(tokens_BS.shape[0]))
        return x_TD

    def _output_T(self, x_TD: Tensor, labels_BS: Tensor) -> Tensor:
        assert self.head is not None  # noqa: S101 (the caller checked it)
        output_T: Tensor = self.head(x_TD, labels_BS.flatten(), self._tied_weight_VD())
        return output_T

    def _tied_weight_VD(self) -> Tensor | None:
        if self.embedding is None or not self.config.tied_embeddings:
            return None
        return self.embedding.weight
