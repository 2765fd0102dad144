"""Activation recomputation: what backward needs is computed again instead of kept."""

from __future__ import annotations

from functools import partial

from torch.utils.checkpoint import checkpoint

from pytest_nemoperf.native.block import Block
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.recipe import Recompute

# Nothing in the model is random, so there is no generator to put back. Not the reentrant kind: it would hide the
# weights from a backward pass that is taken in two halves, and from FSDP's hooks.
_recomputed = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


def apply_recompute(model: Decoder, *, recompute: Recompute) -> None:
    """Have some activations computed again in backward.

    Call it after context parallelism, which changes what the attention core does, and before FSDP, whose hooks around
    a block must stay outside: backward gathers the block's weights first, and recomputes then. Collectives inside what
    is recomputed run again too, in the same order on every rank. A zero-bubble schedule takes backward in two halves,
    and each of them computes again.

    Args:
        model: It is changed.
        recompute: ``SELECTIVE`` keeps what goes into the attention core (queries, keys and values) and computes the
            core again, ``FULL`` keeps what goes into a block.
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
