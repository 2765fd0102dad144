"""8-bit and 4-bit precisions: matrix products of the blocks by transformer-engine.

transformer-engine computes the projections inside blocks; embedding, norms, attention, routers, routed experts, head
and loss stay in bf16. Master weights, gradients and optimizer are fp32 in any case. Its layers are given the model's
weights in each call, so that sharding does not depend on the precision.

transformer-engine is imported only if a plan needs it: its wheels need CUDA, and no environment that tests this project
has it. Its names here follow its documentation and source (version 2).

References:
    https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/api/pytorch.html and .../api/common.html
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.model.block import Block
from pytest_nemoperf.native.model.layers import Linear
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.recipes.recipe import Precision

_RECIPES = {
    Precision.FP8_DS: "DelayedScaling",
    Precision.FP8_CS: "Float8CurrentScaling",
    Precision.FP8_SC: "Float8BlockScaling",
    Precision.MXFP8: "MXFP8BlockScaling",
    Precision.NVFP4: "NVFP4BlockScaling",
}


def apply_precision(model: Decoder, *, precision: Precision, amax_group: ProcessGroup | None) -> None:
    """Replace the matrix products of every block by those of the precision.

    Call it before recomputation, which must run the same products again.

    Args:
        model: Changed in place.
        precision: Precision of the plan.
        amax_group: Ranks that agree on the scales of delayed scaling, those of one pipeline stage; None for all.

    Raises:
        PlanError: If the precision needs transformer-engine and it can't be imported.
    """
    if not precision.needs_transformer_engine:
        return
    engine = _transformer_engine("transformer_engine.pytorch", precision=precision)
    recipes = _transformer_engine("transformer_engine.common.recipe", precision=precision)
    recipe = getattr(recipes, _RECIPES[precision])()
    if hasattr(engine, "autocast"):  # from 2.9 on; the names of older versions are those of fp8
        context = partial(engine.autocast, enabled=True, recipe=recipe, amax_reduction_group=amax_group)
    else:
        context = partial(engine.fp8_autocast, enabled=True, fp8_recipe=recipe, fp8_group=amax_group)
    for block in model.modules():
        if isinstance(block, Block):
            block.forward = partial(_forward_within, context, block.forward)  # type: ignore[method-assign]  # of this one
            for layer in block.modules():
                if isinstance(layer, Linear):
                    layer.product = _EngineProduct(engine.Linear)


class _EngineProduct:
    """Matrix product by a layer of transformer-engine, which keeps its scales from call to call."""

    def __init__(self, make_layer: Callable[..., nn.Module]) -> None:
        self._make_layer = make_layer
        self._layer: nn.Module | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = weight.shape
        if self._layer is None:
            self._layer = self._make_layer(columns, rows, bias=False, params_dtype=weight.dtype, device="meta")
        self._layer.weight = weight  # a parameter, whole at this time
        # Outside an autocast region the layer refuses fp32 weights beside bf16 activations (its set_activation_dtype).
        with torch.autocast(x.device.type, dtype=x.dtype):
            out: Tensor = self._layer(x)
        if bias is not None:
            out = out + bias.to(out.dtype)
        return out


def _forward_within(
    context: Callable[[], AbstractContextManager[Any]], forward: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> Tensor:
    with context():
        return forward(*args, **kwargs)


def _transformer_engine(module: str, *, precision: Precision) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as exc:  # the bare package without its torch part raises RuntimeError
        raise PlanError(
            f"precision={precision} needs transformer-engine, which can't be imported here ({exc}); install it on a "
            "machine with CUDA with: pip install 'pytest-nemoperf[te]', or use bf16"
        ) from exc
