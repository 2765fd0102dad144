from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.components import HyperConnections, MoE, RopeScaling
from pytest_nemoperf.models.huggingface.export import huggingface_config, unexportable_model
from pytest_nemoperf.models.huggingface.read import read_config
from tests.builders import ROUND_MODEL

EXPERTS = MoE(num_experts=4, topk=2, ffn_hidden_size=16, is_normalized=False)
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_context=8192)


@pytest.mark.parametrize(
    ("changes", "model_type"),
    [
        ({}, "llama"),
        ({"rope_scaling": LLAMA3, "norm_eps": 1e-6, "rope_theta": 1e4}, "llama"),
        ({"rope_scaling": RopeScaling(kind="linear", factor=4.0)}, "llama"),
        ({"qkv_bias": True, "out_bias": True}, "llama"),
        ({"qkv_bias": True, "tied_embeddings": True}, "qwen2"),
        ({"qk_norm": "rms", "head_dim": 32}, "qwen3"),
        ({"qk_norm": "rms", "moe": EXPERTS}, "qwen3_moe"),
    ],
)
def test_a_config_reads_back_as_the_model_it_was_made_of(
    changes: dict[str, Any], model_type: str, tmp_path: Path
) -> None:
    model = replace(ROUND_MODEL, **changes)

    config = huggingface_config(model, max_positions=64)

    path = tmp_path / f"{ROUND_MODEL.name}.json"
    # unused by these, and other files have it only beside use_sliding_window
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "sliding_window"}))
    assert config["model_type"] == model_type
    assert config["max_position_embeddings"] == 64
    assert read_config(path) == model


def test_a_window_on_every_layer_is_mistral() -> None:
    config = huggingface_config(replace(ROUND_MODEL, sliding_window=32), max_positions=64)

    assert (config["model_type"], config["sliding_window"]) == ("mistral", 32)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"hyper_connections": HyperConnections(num_streams=4, num_iterations=20)},
            r"it has hyper-connections \(hyper_connections.num_streams=4\), which no class here has",
        ),
        (
            {"moe": MoE(num_experts=4, topk=2, ffn_hidden_size=16)},
            r"its moe=MoE\(.* is not what a model of llama, ",
        ),
        (
            {"qk_norm": "rms", "moe": replace(EXPERTS, shared_ffn_hidden_size=16)},
            r"its qk_norm='rms', moe=MoE\(.* is not what",
        ),
        ({"qk_norm": "l2"}, "its qk_norm='l2' is not what"),
        (
            {"sliding_window": 8, "full_attention_interval": 2},
            "sliding_window=8, full_attention_interval=2 is not what",
        ),
        ({"rope_scaling": RopeScaling(kind="yarn", factor=2.0)}, "rope_scaling.kind='yarn' is none of linear, llama3"),
    ],
)
def test_other_architectures_have_no_config(changes: dict[str, Any], problem: str) -> None:
    model = replace(ROUND_MODEL, **changes)

    assert unexportable_model(model) is not None
    with pytest.raises(PlanError, match=f"round has no Hugging Face config: .*{problem}"):
        huggingface_config(model, max_positions=64)
