"""Products given to transformer-engine; the package needs CUDA, so a recorder takes its place."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.model.layers import plain_product
from pytest_nemoperf.native.model.precision import apply_precision
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.recipes.recipe import Precision
from tests.native.tiny import build, tiny_config, tiny_plan

TE_PRECISIONS = [precision for precision in Precision if precision.needs_transformer_engine]


class RecordingEngine(ModuleType):
    """Takes the calls that transformer-engine would get."""

    def __init__(self) -> None:
        super().__init__("transformer_engine.pytorch")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.autocast_dtypes: list[torch.dtype] = []
        self.Linear = self.make

    def make(self, in_features: int, out_features: int, *, device: str, **options: Any) -> nn.Module:
        self.calls.append(("Linear", {"device": device, **options}))
        layer = nn.Linear(in_features, out_features, bias=options["bias"], dtype=options["params_dtype"], device=device)

        def noting(input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Linear's name)
            self.autocast_dtypes.append(torch.get_autocast_dtype("cpu"))
            return nn.functional.linear(input, layer.weight.to(input.dtype))

        layer.forward = noting  # type: ignore[method-assign]  # as a layer of its own would
        return layer

    def autocast(self, **options: Any) -> nullcontext[None]:
        self.calls.append(("autocast", options))
        return nullcontext()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> RecordingEngine:
    engine = RecordingEngine()
    names = ("DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling", "MXFP8BlockScaling", "NVFP4BlockScaling")
    recipes = ModuleType("transformer_engine.common.recipe")
    for name in names:
        setattr(recipes, name, lambda name=name: SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, "transformer_engine", ModuleType("transformer_engine"))
    monkeypatch.setitem(sys.modules, "transformer_engine.common", ModuleType("transformer_engine.common"))
    monkeypatch.setitem(sys.modules, "transformer_engine.common.recipe", recipes)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", engine)
    return engine


TOKENS = torch.arange(16)[None]


def model_in(precision: Precision) -> Decoder:
    model = build(tiny_plan(model=tiny_config(qkv_bias=True, num_layers=2), precision="bf16"))
    apply_precision(model, precision=precision, amax_group=RankMesh().stage)
    return model


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_plain_precisions_leave_the_products_as_they_are(precision: Precision) -> None:
    attention = model_in(precision).get_submodule("blocks.0.attention.qkv")

    assert attention.product is plain_product


@pytest.mark.parametrize("precision", TE_PRECISIONS)
def test_without_transformer_engine_the_reason_is_told(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformer_engine", None)

    with pytest.raises(
        PlanError,
        match=rf"precision={precision} needs transformer-engine, which can't be imported .*"
        r"install it on a machine with CUDA with: pip install 'pytest-nemoperf\[te\]'",
    ):
        model_in(precision)


def test_every_projection_of_a_block_goes_through_it_with_the_models_own_weights(
    recorder: RecordingEngine,
) -> None:
    plain, swapped = model_in(Precision.BF16), model_in(Precision.FP8_CS)

    expected = plain(TOKENS, TOKENS[..., None])
    loss = swapped(TOKENS, TOKENS[..., None])
    expected.backward()
    loss.backward()

    assert [name for name, _ in recorder.calls].count("Linear") == 2 * 4  # qkv, out, gate_up, down
    assert torch.equal(loss, expected)
    for (name, ours), (_, theirs) in zip(swapped.named_parameters(), plain.named_parameters(), strict=True):
        assert ours.dtype is torch.float32
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_its_layers_allocate_nothing_and_meet_activations_in_their_own_type(recorder: RecordingEngine) -> None:
    model_in(Precision.FP8_CS)(TOKENS, TOKENS[..., None])

    assert {options["device"] for name, options in recorder.calls if name == "Linear"} == {"meta"}
    assert set(recorder.autocast_dtypes) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("precision", "recipe"),
    [
        (Precision.FP8_DS, "DelayedScaling"),
        (Precision.FP8_CS, "Float8CurrentScaling"),
        (Precision.FP8_SC, "Float8BlockScaling"),
        (Precision.MXFP8, "MXFP8BlockScaling"),
        (Precision.NVFP4, "NVFP4BlockScaling"),
    ],
)
def test_each_block_runs_within_the_recipe_of_the_precision(
    recorder: RecordingEngine, precision: Precision, recipe: str
) -> None:
    model_in(precision)(TOKENS, TOKENS[..., None])

    contexts = [options for name, options in recorder.calls if name == "autocast"]
    assert [options["recipe"].name for options in contexts] == [recipe] * 2
    assert all(options["enabled"] for options in contexts)
