"""DeepSeek-V4's config: the released files' keys, transformers' own, and what neither means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.huggingface.read import read_config
from tests.models.huggingface.test_read import CONFIGS, write_config

RELEASED = {
    # ai-dynamo/aiconfigurator@095f58a51 aic-core/src/aiconfigurator_core/model_configs/
    # deepseek-ai--DeepSeek-V4-Flash_config.json
    "model_type": "deepseek_v4",
    "attention_bias": False,
    "expert_dtype": "fp4",
    "hc_eps": 1e-06,
    "hc_mult": 4,
    "hc_sinkhorn_iters": 20,
    "head_dim": 512,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "index_head_dim": 128,
    "index_n_heads": 64,
    "index_topk": 512,
    "max_position_embeddings": 1048576,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 64,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 43,
    "num_hash_layers": 3,
    "num_key_value_heads": 1,
    "num_nextn_predict_layers": 1,
    "o_groups": 8,
    "o_lora_rank": 1024,
    "q_lora_rank": 1024,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 16,
        "original_max_position_embeddings": 65536,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 1.5,
    "scoring_func": "sqrtsoftplus",
    "sliding_window": 128,
    "swiglu_limit": 10.0,
    "tie_word_embeddings": False,
    "topk_method": "noaux_tc",
    "vocab_size": 129280,
    "compress_rope_theta": 160000,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
}
SAVED: Mapping[str, Any] = json.loads((CONFIGS / "deepseek-v4" / "config.json").read_bytes())


def test_the_released_file_is_the_catalog_s_model(tmp_path: Path) -> None:
    model = read_config(write_config(tmp_path, RELEASED))

    assert replace(model, name="deepseek-v4-flash") == find_model("deepseek-v4-flash")


def test_a_file_that_transformers_saved_says_the_same_in_other_keys(tmp_path: Path) -> None:
    saved = set(SAVED) - {
        "layer_types",
        "mlp_layer_types",
        "compress_rates",
        "rope_parameters",
        "partial_rotary_factor",
    }
    released = {key: SAVED[key] for key in saved}
    released |= {
        "compress_ratios": [0, 0, 4, 128, 0],
        "num_hash_layers": 2,
        "rope_scaling": RELEASED["rope_scaling"] | {"original_max_position_embeddings": 256},  # type: ignore[operator]  # a table of mixed types
    }

    model = read_config(write_config(tmp_path, released))

    assert replace(model, name="mine") == replace(read_config(CONFIGS / "deepseek-v4"), name="mine")


def test_layers_that_no_file_lists_are_transformers_own(tmp_path: Path) -> None:
    unlisted = {key: value for key, value in SAVED.items() if key not in {"layer_types", "mlp_layer_types"}}

    model = read_config(write_config(tmp_path, {**unlisted, "num_hidden_layers": 5}))

    assert model.compressed_attention is not None
    assert model.compressed_attention.ratios == (128, 128, 128, 4, 128)
    assert model.moe is not None
    assert model.moe.num_hash_layers == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compress_ratios": [0, 4]},
            r"compress_ratios=\[0, 4\] is not understood; only one of \[0, 4, 128\] for",
        ),
        ({"compress_ratios": [0, 8, 4, 4, 0]}, r"compress_ratios=.* only one of \[0, 4, 128\]"),
        ({"compress_ratios": [0, 4, 4, 4, 4]}, r"compress_ratios=.* only 0 for blocks of multi-token prediction is"),
        (
            {"layer_types": ["full_attention"] * 4},
            r"layer_types=.* only one of sliding_attention, .* for each layer is",
        ),
        ({"mlp_layer_types": ["moe", "hash_moe", "moe", "moe"]}, r"mlp_layer_types=.* only hash_moe layers before moe"),
        (
            {"compress_rates": {"other": 2}},
            r"compress_rates=.* only a whole number of tokens for each of compressed_sparse_attention, heavily",
        ),
        ({"compress_rates": {"compressed_sparse_attention": [4]}}, r"compress_rates=.* only a whole number of tokens"),
        ({"compress_ratios": 4}, r"compress_ratios=4 must be a list"),
        ({"compress_ratios": [[4], {}, 4, 4]}, r"compress_ratios=.* only one of \[0, 4, 128\]"),
        ({"layer_types": [["a"], {}, 4, 4]}, r"layer_types=.* only a list of texts is"),
        ({"mlp_layer_types": "moe"}, r'mlp_layer_types="moe" must be a list'),
        ({"partial_rotary_factor": "x"}, r'partial_rotary_factor="x" must be a number'),
        ({"rope_parameters": {"main": 5}}, r"rope_parameters=.* only an object for main is"),
        ({"rope_parameters": {"compress": []}}, r"rope_parameters=.* only an object for compress is"),
        ({"rope_parameters": {"main": {"rope_theta": "x"}}}, r'rope_theta="x" is not understood; only a number is'),
        ({"scoring_func": "tanh"}, r'scoring_func="tanh" is not understood; only sqrtsoftplus, softmax and sigmoid'),
        ({"topk_method": "greedy"}, r'topk_method="greedy" is not understood; only "noaux_tc" is'),
        ({"n_shared_experts": 2}, r"n_shared_experts=2 is not understood; only 1 is"),
        ({"num_key_value_heads": 2}, r"num_key_value_heads=2 is not understood; only 1 is"),
        ({"index_topk": None}, r"index_topk is missing; a deepseek_v4 config needs it"),
        ({"hc_mult": 0}, r"hc_mult=0 must be a whole number >= 1"),
        ({"dspark_block_size": 5}, r"dspark_block_size not understood"),
        (
            {"rope_parameters": {"main": {"rope_type": "yarn"}, "compress": {}}},
            r"rope_parameters=.* only unscaled frequencies of the window are",
        ),
    ],
)
def test_what_is_not_understood_is_named(tmp_path: Path, changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_config(write_config(tmp_path, {**SAVED, **changes}))
