"""Activation recomputation: backward computes activations again instead of keeping them."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from pytest_nemoperf.native.model.block import Block
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.recipes.recipe import Recompute

# Nothing in the model is random, so no generator state is restored. Not the reentrant kind: it would hide the weights
# from FSDP's hooks.
_recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def apply_recompute(model: Decoder, *, recompute: Recompute) -> None:
    """Checkpoint attention cores (selective) or blocks (full).

    Call it after context parallelism, which replaces the attention core, and before FSDP, whose hooks around a block
    must stay outside: backward gathers the block's weights first, and recomputes then. Collectives inside run again
    too, in the same order on every rank. Of a backward pass in two halves (zero bubble) the first alone recomputes.

    Args:
        model: Changed in place.
        recompute: ``SELECTIVE`` keeps the inputs of the attention core (queries, keys and values) and recomputes the
            core, ``FULL`` keeps the inputs of a block.
    """
    match recompute:
        case Recompute.NONE:
            return
        case Recompute.SELECTIVE:
            for module in model.modules():
                if hasattr(module, "core"):
                    module.core = partial(_recomputed, module.core)  # type: ignore[assignment]  # torch's typing
        case Recompute.FULL:
            for module in model.modules():
                if isinstance(module, Block):
                    module.forward = partial(_recomputed, module.forward)  # type: ignore[method-assign]  # of this one
