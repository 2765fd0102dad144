"""The one switch between plain matrix products and transformer-engine's: which linear layer, and what surrounds it.

Under an 8-bit or 4-bit precision the projections inside blocks are transformer-engine's; embedding, norms, attention,
routers, head and loss stay as they are, in bf16. Master weights, gradients and optimizer are fp32 in any case. The
modules' parameters keep their names and shapes, so that whatever cuts or shards weights needs to know nothing of it.

transformer-engine is imported when a plan asks for it and never before: its wheels need CUDA, and it is in no
environment this project is tested in. Its names here follow its documentation and source (version 2).

References:
    https://docs.nvidia.com/deeplearning/transformer-engine/user-guide/api/pytorch.html and .../api/common.html
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.recipe import Precision

_RECIPES = {
    Precision.FP8_DS: "DelayedScaling",
    Precision.FP8_CS: "Float8CurrentScaling",
    Precision.MXFP8: "MXFP8BlockScaling",
    Precision.NVFP4: "NVFP4BlockScaling",
}


def make_linear(
    in_features: int,
    out_features: int,
    *,
    precision: Precision,
    plain: Callable[[int, int], nn.Module],
) -> nn.Module:
    """Return the layer for a matrix product without bias, with an fp32 ``weight`` of (out_features, in_features).

    Args:
        in_features: Width of its input.
        out_features: Width of its output.
        precision: Of the plan.
        plain: Makes the engine's own layer, for fp32 and bf16.

    Raises:
        PlanError: If the precision needs transformer-engine and it can't be imported.
    """
    if not precision.needs_transformer_engine:
        return plain(in_features, out_features)
    engine = _transformer_engine("transformer_engine.pytorch", precision=precision)
    layer: nn.Module = engine.Linear(in_features, out_features, bias=False, params_dtype=torch.float32, device="meta")
    # Outside an autocast region the layer refuses fp32 weights beside bf16 activations (its set_activation_dtype).
    layer.forward = partial(_forward_in_autocast, layer.forward)
    return layer


def forward_context(precision: Precision, *, amax_group: ProcessGroup | None = None) -> AbstractContextManager[Any]:
    """Return what surrounds the forward pass of a micro-batch; backward runs outside of it.

    Args:
        precision: Of the plan.
        amax_group: Ranks that agree on the scales of delayed scaling, those of one pipeline stage; None for all.

    Raises:
        PlanError: As make_linear.
    """
    if not precision.needs_transformer_engine:
        return nullcontext()
    engine = _transformer_engine("transformer_engine.pytorch", precision=precision)
    recipes = _transformer_engine("transformer_engine.common.recipe", precision=precision)
    recipe = getattr(recipes, _RECIPES[precision])()
    context: AbstractContextManager[Any]
    if hasattr(engine, "autocast"):  # 2.9 on; before, the same under names of fp8 alone
        context = engine.autocast(enabled=True, recipe=recipe, amax_reduction_group=amax_group)
    else:
        context = engine.fp8_autocast(enabled=True, fp8_recipe=recipe, fp8_group=amax_group)
    return context


def _forward_in_autocast(forward: Callable[..., Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, dtype=x.dtype):
        return forward(x)


def _transformer_engine(module: str, *, precision: Precision) -> Any:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as exc:  # the bare package without its torch part raises RuntimeError
        raise PlanError(
            f"precision={precision} needs transformer-engine, which can't be imported here ({exc}); install it on a "
            "machine with CUDA with: pip install 'pytest-nemoperf[te]', or use bf16"
        ) from exc
