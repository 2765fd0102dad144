"""A model and plans small enough to check by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.phases import PhaseClock
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.recipes.recipe import Plan

CPU = torch.device("cpu")


def tiny_config(**changes: Any) -> ModelConfig:
    values: dict[str, Any] = {
        "name": "tiny",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "ffn_hidden_size": 48,
        "vocab_size": 64,
    }
    return ModelConfig(**{**values, **changes})


def tiny_plan(*, inject_pct: float = 0.0, **changes: Any) -> Plan:
    from tests.builders import make_plan  # not above: ranks import this module, and make no plans

    return replace(make_plan(**{"model": tiny_config(), "seq_len": 16, **changes}), inject_pct=inject_pct)


def build(plan: Plan) -> Decoder:
    """Return the whole model of a plan, as a single rank holds it."""
    (model,) = parallelize(plan, mesh=RankMesh(), device=CPU)
    assert isinstance(model, Decoder)
    return model


def trainer_of(plan: Plan, model: Decoder) -> Trainer:
    data = SyntheticTokens(plan, dp_rank=0, device=CPU)
    return Trainer(plan, chunks=[model], mesh=RankMesh(), data=data, clock=PhaseClock())
