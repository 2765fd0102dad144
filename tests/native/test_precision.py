from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.precision import forward_context, make_linear
from pytest_nemoperf.recipe import Precision

TE_PRECISIONS = [precision for precision in Precision if precision.needs_transformer_engine]


def plain(in_features: int, out_features: int) -> nn.Module:
    return nn.Linear(in_features, out_features, bias=False)


class RecordingEngine(ModuleType):
    """Takes the calls that transformer-engine would get."""

    def __init__(self) -> None:
        super().__init__("transformer_engine.pytorch")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.autocast_dtypes: list[torch.dtype] = []
        self.Linear = self.make

    def make(self, in_features: int, out_features: int, *, device: str, **options: Any) -> nn.Module:
        self.calls.append(("Linear", {"device": device, **options}))
        layer = nn.Linear(in_features, out_features, bias=options["bias"], dtype=options["params_dtype"])
        forward = layer.forward

        def noting(input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Linear's name)
            self.autocast_dtypes.append(torch.get_autocast_dtype("cpu"))
            return forward(input.float())

        layer.forward = noting  # type: ignore[method-assign]  # as a layer of its own would
        return layer

    def autocast(self, **options: Any) -> nullcontext[None]:
        self.calls.append(("autocast", options))
        return nullcontext()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    engine = RecordingEngine()
    names = ("DelayedScaling", "Float8CurrentScaling", "MXFP8BlockScaling", "NVFP4BlockScaling")
    recipes = ModuleType("transformer_engine.common.recipe")
    for name in names:
        setattr(recipes, name, lambda name=name: SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, "transformer_engine", ModuleType("transformer_engine"))
    monkeypatch.setitem(sys.modules, "transformer_engine.common", ModuleType("transformer_engine.common"))
    monkeypatch.setitem(sys.modules, "transformer_engine.common.recipe", recipes)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", engine)
    return engine


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_plain_precisions_take_the_engines_own_layer(precision: Precision) -> None:
    layer = make_linear(4, 6, precision=precision, plain=plain)

    assert type(layer) is nn.Linear
    assert isinstance(forward_context(precision), nullcontext)


@pytest.mark.parametrize("precision", TE_PRECISIONS)
def test_without_transformer_engine_the_reason_is_told(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_engine", None)

    with pytest.raises(PlanError, match=rf"precision={precision} needs transformer-engine, which can't be imported"):
        make_linear(4, 6, precision=precision, plain=plain)
    with pytest.raises(PlanError, match=r"install it on a machine with CUDA with: pip install 'pytest-nemoperf\[te\]'"):
        forward_context(precision)


def test_weights_stay_fp32_and_meet_activations_in_their_own_type(engine: RecordingEngine) -> None:
    layer = make_linear(4, 6, precision=Precision.FP8_CS, plain=plain)

    assert engine.calls[0][1]["device"] == "meta"
    layer(torch.ones(2, 4, dtype=torch.bfloat16))

    assert layer.weight.dtype == torch.float32
    assert layer.weight.shape == (6, 4)
    assert engine.autocast_dtypes == [torch.bfloat16]


@pytest.mark.parametrize(
    ("precision", "recipe"),
    [
        (Precision.FP8_DS, "DelayedScaling"),
        (Precision.FP8_CS, "Float8CurrentScaling"),
        (Precision.MXFP8, "MXFP8BlockScaling"),
        (Precision.NVFP4, "NVFP4BlockScaling"),
    ],
)
def test_each_precision_has_its_recipe(engine: RecordingEngine, precision: Precision, recipe: str) -> None:
    with forward_context(precision):
        pass

    ((name, options),) = engine.calls
    assert name == "autocast"
    assert options["enabled"] is True
    assert options["recipe"].name == recipe
