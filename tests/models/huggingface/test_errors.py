"""Values derived from a config.json, and errors about wrong ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.huggingface.read import read_config
from tests.models.huggingface.test_read import CONFIGS, LLAMA, write_config


def test_latent_scales_of_attention_are_derived_as_transformers_does(tmp_path: Path) -> None:
    scaling = {"type": "yarn", "factor": 40.0, "mscale": 0.5, "mscale_all_dim": 1.0}
    data = json.loads((CONFIGS / "deepseek-v3" / "config.json").read_bytes())
    data |= {"rope_parameters": None, "rope_scaling": scaling | {"original_max_position_embeddings": 4096}}

    rope = read_config(write_config(tmp_path, data)).rope_scaling

    assert rope is not None
    assert rope.attention_factor == pytest.approx((0.05 * math.log(40) + 1) / (0.1 * math.log(40) + 1))
    assert rope.softmax_mscale == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba2"}, r"model_type 'mamba2' is not understood"),
        ({"model_type": "mamba2"}, r"known: deepseek_v2, .*; describe another architecture by a ModelConfig"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\] is not understood"),
        ({"model_type": None}, r"config.json: model_type is missing; it names the family"),
        ({"hidden_size": None}, r"hidden_size is missing; a llama config needs it"),
        ({"my_new_attention": 3}, r"my_new_attention not understood; remove what does not change the architecture"),
        ({"hidden_act": "gelu"}, r'hidden_act="gelu" is not understood; only "silu" is'),
        ({"rope_scaling": {"type": "longrope"}}, r'rope_type="longrope" is not understood; only linear, llama3, yarn'),
        ({"rope_scaling": {"type": "linear", "short": 1}}, r'rope_scaling=\["short"\] is not understood; linear has'),
        ({"rope_scaling": {"type": "linear"}}, r"the factor of the linear rope_scaling is missing"),
        ({"rope_theta": "large"}, r'rope_theta="large" must be a number'),
        ({"num_hidden_layers": "two"}, r'config.json: num_hidden_layers="two" must be a whole number'),
        ({"num_hidden_layers": True}, r"num_hidden_layers=true must be a whole number"),
        ({"num_attention_heads": 0}, r"num_attention_heads=0 must be a whole number >= 1"),
        ({"hidden_size": "64"}, r'hidden_size="64" must be a whole number'),
        ({"hidden_size": 64.5}, r"hidden_size=64.5 must be a whole number"),
        ({"rms_norm_eps": "small"}, r'rms_norm_eps="small" must be a number'),
        ({"mlp_bias": "no"}, r'mlp_bias="no" must be true or false'),
        ({"rope_parameters": []}, r"rope_parameters=\[\] must be an object"),
        ({"head_dim": "16"}, r'config.json: head_dim="16" must be a whole number'),
        (
            {"hidden_size": 66, "head_dim": None},
            r"hidden_size=66 is not a multiple of num_attention_heads=4 \(66/4 = 16\.5\), and no head_dim says",
        ),
        ({"num_key_value_heads": 3}, r"config.json: model .*: num_kv_heads=3 does not divide num_heads=4"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, changes: Mapping[str, Any], message: str) -> None:
    path = write_config(tmp_path, LLAMA | dict(changes))

    with pytest.raises(RecipeError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2.5", {"use_sliding_window": True}, r"use_sliding_window=true is not understood; only false is"),
        ("qwen3-moe", {"mlp_only_layers": [0]}, r"mlp_only_layers=\[0\] is not understood"),
        ("deepseek-v3", {"scoring_func": "softmax"}, r'scoring_func="softmax" is not understood; only "sigmoid" is'),
        ("deepseek-v2", {"topk_method": "noaux_tc"}, r'topk_method="noaux_tc" is not understood; only greedy'),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"] * 2}, r"layer_types=.* is not understood"),
        ("mixtral", {"sliding_window": 4096}, r"sliding_window=4096 is not understood; only null is"),
        ("nemotron-h", {"layers_block_type": ["mamba", "rwkv"]}, r'layers_block_type=\["rwkv"\] is not understood'),
        ("deepseek-v2", {"num_experts_per_tok": None}, r"config.json: num_experts_per_tok is missing; a deepseek_v2"),
        (
            "qwen3-moe",
            {"num_experts": None, "num_local_experts": None},
            r"num_experts is missing; a qwen3_moe config needs it",
        ),
        ("gpt2", {"n_embd": 63}, r"n_embd=63 is not a multiple of n_head="),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx=true is not understood"),
    ],
)
def test_values_that_change_the_architecture_are_refused(
    tmp_path: Path, family: str, changes: Mapping[str, Any], message: str
) -> None:
    data = json.loads((CONFIGS / family / "config.json").read_bytes())
    path = write_config(tmp_path, data | changes)

    with pytest.raises(RecipeError, match=message):
        read_config(path)


def test_whole_numbers_may_be_written_with_a_point(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path, LLAMA | {"hidden_size": 64.0})).hidden_size == 64


def test_files_that_are_no_config_are_named(tmp_path: Path) -> None:
    broken = tmp_path / "config.json"
    broken.write_text("{", encoding="utf-8")

    with pytest.raises(RecipeError, match=r"config.json: not JSON"):
        read_config(tmp_path)
    with pytest.raises(RecipeError, match=r"config.json: cannot be read: No such file"):
        read_config(CONFIGS)
    with pytest.raises(RecipeError, match=r"config.json: model_type is missing"):
        read_config(write_config(tmp_path, {}))
    with pytest.raises(RecipeError, match=r"config.json: holds a list instead of an object"):
        read_config(write_config(tmp_path, []))
    with pytest.raises(RecipeError, match=r"nowhere/model: cannot be read: No such file"):
        find_model("nowhere/model")
