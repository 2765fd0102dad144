"""A decoder with its loss: what one process computes; parallelism is added from outside.

Tokens of a micro-batch are one dimension, because all but attention works token by token.
"""

# B sequences of a micro-batch, S tokens of a sequence, T = B*S tokens (this rank's part between blocks under
# sequence parallelism), N next tokens of each, K columns of what an objective needs to know of a token, D hidden,
# V vocabulary (this rank's part under tensor parallelism)

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.components import Layer
from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.attention_core import Masks
from pytest_nemoperf.native.block import Block
from pytest_nemoperf.native.layers import Embedding, LearnedPositions, make_norm
from pytest_nemoperf.native.mtp import LOSS_WEIGHT, MTPDepth
from pytest_nemoperf.native.operators import cross_entropy
from pytest_nemoperf.native.rope import Positions, Tables, table_of, tabulate
from pytest_nemoperf.native.value_head import ValueHead
from pytest_nemoperf.trainable import unsupported_model

Objective = Callable[..., Tensor]
"""What a model is trained for: from the head's output of each token (T) and its terms, (T, K) or None, to a scalar."""


def next_token_loss(logprob_T: Tensor, terms_TK: Tensor | None) -> Tensor:
    """Return the loss of pre-training, summed over the tokens."""
    del terms_TK  # every token counts the same
    return -logprob_T.sum()


def each_token(output_T: Tensor, terms_TK: Tensor | None) -> Tensor:
    """Return the head's output as it is, for a pass that trains nothing."""
    del terms_TK  # as it says
    return output_T


class LossHead(nn.Module):
    """Logits and the log-probability of a token; tensor parallelism swaps ``cross_entropy`` for one over shards.

    ``temperature`` divides the logits, as it does when responses are sampled.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = (
            None if config.tied_embeddings else nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        )
        self.scale, self.softcap = config.logit_scale, config.final_softcap
        self.temperature = 1.0
        self.cross_entropy: Callable[[Tensor, Tensor], Tensor] = cross_entropy

    def forward(self, x_TD: Tensor, labels_T: Tensor, tied_weight_VD: Tensor | None) -> Tensor:
        """Return each label's log-probability; the embedding table is used where the head has no weight of its own."""
        logits_TV = self.logits(x_TD, tied_weight_VD)
        if self.temperature != 1:
            logits_TV = logits_TV.float() / self.temperature  # as generation divides them
        return -self.cross_entropy(logits_TV, labels_T)

    def logits(self, x_TD: Tensor, tied_weight_VD: Tensor | None) -> Tensor:
        """Return the logits of each token."""
        weight_VD = tied_weight_VD if self.weight is None else self.weight
        assert weight_VD is not None  # noqa: S101 (one of them is there)
        logits_TV = F.linear(x_TD, weight_VD.to(x_TD.dtype))
        if self.scale != 1:
            logits_TV = logits_TV * self.scale
        return logits_TV if self.softcap is None else torch.tanh(logits_TV / self.softcap) * self.softcap


class Decoder(nn.Module):
    """Embedding, blocks, norm, head and loss, or the part of them that one pipeline stage has.

    ``positions_S`` are the places of this rank's tokens in their sequences; context parallelism gives a rank its
    own before ``tabulate_positions`` is called. Whoever has rows of other lengths, or of several samples, puts their
    positions into ``tables`` before a pass. ``objective`` is what the last stage returns.

    Args:
        config: Architecture.
        seq_len: Tokens per sequence (S).
        dtype: Number format of activations and matrix products; parameters are fp32 master weights.
        layers: Which of the model's layers; None for all. Blocks are named by their number in the whole model.
        is_first: Has the embedding.
        is_last: Has the norm, the head and the loss, the blocks of multi-token prediction, and the embedding
            where one of these needs it.
        is_router_balanced: Tokens go round the experts instead of where the router sends them.

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
        self.is_first, self.is_last = is_first, is_last
        masks = Masks()

        def make_block(layer: Layer) -> Block:
            return Block(config, layer, masks=masks, is_router_balanced=is_router_balanced)

        self.embedding: Embedding | None = None
        if is_first or (is_last and (config.tied_embeddings or config.mtp_num_layers)):
            self.embedding = Embedding(config.vocab_size, config.hidden_size)
        self.positions: LearnedPositions | None = None
        if is_first and config.max_positions is not None:
            self.positions = LearnedPositions(config.max_positions, config.hidden_size)
        layers = range(config.num_layers) if layers is None else layers
        kinds = config.layers
        self.blocks = nn.ModuleDict({str(index): make_block(kinds[index]) for index in layers})
        self._block_tables = [table_of(config, kinds[index]) for index in layers]
        self.norm = make_norm(config) if is_last else None
        self.head: LossHead | ValueHead | None = None
        if is_last:
            self.head = ValueHead(config.hidden_size) if config.has_value_head else LossHead(config)
        depths = range(config.num_mtp_blocks if is_last else 0)
        self.mtp = nn.ModuleDict({str(depth): MTPDepth(config, make_block(config.mtp_layer)) for depth in depths})
        # Plain tensors: DDP would broadcast buffers in every step.
        self.positions_S = torch.arange(seq_len, device="cpu")
        self.tables: Tables = {}
        self.objective: Objective = next_token_loss

    def tabulate_positions(self, device: torch.device) -> None:
        """Make what the layers look up about positions_S, on the device."""
        self.tables = tabulate(self.config, index_S=self.positions_S, dtype=self.dtype, device=device)

    def positions_of(self, layer: Layer) -> Positions:
        """Return what a layer looks up about this rank's positions."""
        return self.tables[table_of(self.config, layer)]

    def forward(self, x: Tensor, labels_BSN: Tensor, terms_BSK: Tensor | None = None) -> Tensor:
        """Return the residual stream after this stage, or the objective summed over the micro-batch, a scalar in fp32.

        Args:
            x: Tokens (B, S) on the first stage, the residual stream (T, D) of the stage before on others.
            labels_BSN: The next N tokens of each position, one more than the model predicts further ahead; used by
                the last stage.
            terms_BSK: What the objective needs to know of each position beside the head's output.
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
            ahead = next_token_loss(self._output_T(x, labels_BS), None)
            loss = loss + LOSS_WEIGHT / self.config.mtp_num_layers * ahead
        return loss

    def logits(self, tokens_BS: Tensor) -> Tensor:
        """Return the logits of every position (B, S, V); of a whole model, not of a stage."""
        return torch.unflatten(self.head_logits(self.hidden(tokens_BS)), 0, tokens_BS.shape)

    def head_logits(self, x_TD: Tensor) -> Tensor:
        """Return the logits of some tokens, given the residual stream after the last block; of the last stage."""
        assert self.norm is not None and isinstance(self.head, LossHead)  # noqa: S101, PT018 (a policy's last stage)
        return self.head.logits(self.norm(x_TD), self._tied_weight_VD())

    def hidden(self, x: Tensor) -> Tensor:
        """Return the residual stream after this stage's blocks, of what ``forward`` takes."""
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
        assert self.head is not None  # noqa: S101 (the caller looked)
        output_T: Tensor = self.head(x_TD, labels_BS.flatten(), self._tied_weight_VD())
        return output_T

    def _tied_weight_VD(self) -> Tensor | None:
        return self.embedding.weight if self.embedding is not None and self.config.tied_embeddings else None
