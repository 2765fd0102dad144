"""The one switch between plain matrix products and transformer-engine's.

Under an 8-bit or 4-bit precision the projections inside blocks are transformer-engine's; embedding, norms, attention,
routers, routed experts, head and loss stay as they are, in bf16. Master weights, gradients and optimizer are fp32 in
any case. The engine's layers borrow the model's weights call by call, so that whatever cuts or shards weights needs to
know nothing of it.

transformer-engine is imported when a plan asks for it and never before: its wheels need CUDA, and it is in no
environment this project is tested in. Its names here follow its documentation and source (version 2).

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
from pytest_nemoperf.native.block import Block
from pytest_nemoperf.native.layers import Linear
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.recipe import Precision

_RECIPES = {
    Precision.FP8_DS: "DelayedScaling",
    Precision.FP8_CS: "Float8CurrentScaling",
    Precision.MXFP8: "MXFP8BlockScaling",
    Precision.NVFP4: "NVFP4BlockScaling",
}


def apply_precision(model: Decoder, *, precision: Precision, amax_group: ProcessGroup | None) -> None:
    """Let the projections of every block be computed in the precision.

    Call it before recomputation, which must run the same products again.

    Args:
        model: It is changed.
        precision: Of the plan.
        amax_group: Ranks that agree on the scales of delayed scaling, those of one pipeline stage; None for all.

    Raises:
        PlanError: If the precision needs transformer-engine and it can't be imported.
    """
    if not precision.needs_transformer_engine:
        return
    engine = _transformer_engine("transformer_engine.pytorch", precision=precision)
    recipes = _transformer_engine("transformer_engine.common.recipe", precision=precision)
    recipe = getattr(recipes, _RECIPES[precision])()
    if hasattr(engine, "autocast"):  # 2.9 on; before, the same under names of fp8 alone
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
    """Computes a product with a layer of transformer-engine, which keeps scales from call to call."""

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
        return out if bias is None else out + bias.to(out.dtype)


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
