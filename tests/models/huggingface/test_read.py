from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import MLA, GatedDeltaNet, Mamba, MoE, RopeScaling
from pytest_nemoperf.models.huggingface.read import read_config
from pytest_nemoperf.models.twins import twin_of
from pytest_nemoperf.models.weights import num_parameters

CONFIGS = Path(__file__).parents[2] / "data" / "hf"
LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
}


def write_config(folder: Path, data: object) -> Path:
    path = folder / "mine" / "config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        # AutoModelForCausalLM.from_config on the meta device, transformers 5.23; without multi-token prediction
        ("deepseek-v2", 193_848),
        ("deepseek-v3", 249_056),
        ("deepseek-v4", 355_677),
        ("gemma2", 181_312),
        ("gemma3", 268_224),
        ("gemma3-text", 268_224),
        ("gpt-oss", 267_616),
        ("gpt2", 116_480),
        ("llama-3.1", 78_144),
        ("llama4", 195_648),
        ("mixtral", 189_248),
        ("nemotron", 66_176),
        ("nemotron-h", 146_776),
        ("qwen2.5", 70_208),
        ("qwen3", 102_848),
        ("qwen3-moe", 214_464),
        ("qwen3-next", 436_168),
    ],
)
def test_models_have_the_parameters_transformers_counts(family: str, parameters: int) -> None:
    model = read_config(CONFIGS / family)

    assert num_parameters(replace(model, mtp_num_layers=0)) == parameters


def test_every_stored_config_is_checked() -> None:
    families = {path.name for path in CONFIGS.iterdir() if path.is_dir()}

    assert len(families) == 17


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            "llama-3.1",
            {
                "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context=8192),
                "rope_theta": 500_000.0,
                "qkv_bias": False,
            },
        ),
        ("qwen2.5", {"qkv_bias": True, "out_bias": False, "tied_embeddings": True, "rope_theta": 1_000_000.0}),
        ("qwen3", {"qk_norm": "rms", "head_dim": 32}),
        ("qwen3-moe", {"moe": MoE(num_experts=8, topk=2, ffn_hidden_size=48)}),
        (
            "qwen3-next",
            {
                "gated_delta_net": GatedDeltaNet(
                    num_key_heads=2, key_head_dim=16, num_value_heads=4, value_head_dim=16
                ),
                "full_attention_interval": 4,
                "rope_dim": 8,
                "attention_gate": True,
            },
        ),
        (
            "deepseek-v2",
            {
                "mla": MLA(q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16),
                "moe": MoE(
                    num_experts=8,
                    topk=2,
                    ffn_hidden_size=32,
                    shared_ffn_hidden_size=64,
                    num_dense_layers=1,
                    is_normalized=False,
                    scaling_factor=16.0,
                    num_groups=4,
                    topk_groups=2,
                ),
            },
        ),
        (
            "deepseek-v3",
            {
                "mtp_num_layers": 1,
                "rope_scaling": RopeScaling(
                    kind="yarn",
                    factor=40.0,
                    original_context=4096,
                    low_freq=1,
                    high_freq=32,
                    attention_factor=1.0,
                    softmax_mscale=1.0,
                ),
                "moe": MoE(
                    num_experts=8,
                    topk=2,
                    ffn_hidden_size=32,
                    shared_ffn_hidden_size=32,
                    num_dense_layers=1,
                    router="sigmoid",
                    scaling_factor=2.5,
                    num_groups=4,
                    topk_groups=2,
                    group_score="top2",
                    has_score_correction=True,
                ),
            },
        ),
        ("mixtral", {"rope_theta": 1_000_000.0, "moe": MoE(num_experts=4, topk=2, ffn_hidden_size=96)}),
        (
            "gpt-oss",
            {
                "activation": "clamped_swiglu",
                "attention_sinks": True,
                "sliding_window": 128,
                "full_attention_interval": 2,
                "rope_theta": 150_000.0,
            },
        ),
        ("gpt2", {"norm": "layernorm", "max_positions": 128, "ffn_hidden_size": 256, "activation": "gelu"}),
        ("nemotron", {"norm": "layernorm", "activation": "squared_relu", "rope_dim": 8}),
        (
            "nemotron-h",
            {
                "hybrid_pattern": "M-ME*E",
                "mamba": Mamba(num_heads=4, head_dim=16, state_dim=16, num_groups=2),
                "num_layers": 6,
            },
        ),
        (
            "gemma2",
            {
                "attention_softcap": 50.0,
                "final_softcap": 30.0,
                "query_scale": 1 / 12,
                "embedding_scale": 8.0,
                "full_attention_interval": 2,
                "has_post_norms": True,
            },
        ),
        ("gemma3", {"rope_theta": 1_000_000.0, "rope_local_theta": 10_000.0, "full_attention_interval": 6}),
        (
            "llama4",
            {
                "qk_norm": None,
                "nope_interval": 4,
                "sliding_window": 16,
                "is_window_chunked": True,
                "ffn_hidden_size": 96,
                "query_temperature": (0.1, 8192.0),
            },
        ),
    ],
)
def test_what_a_config_says_is_in_the_model(family: str, expected: Mapping[str, Any]) -> None:
    model = read_config(CONFIGS / family / "config.json")

    assert {key: getattr(model, key) for key in expected} == expected


def test_a_path_is_accepted_where_a_catalog_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, LLAMA)
    monkeypatch.chdir(tmp_path)

    models = [find_model(name) for name in (str(tmp_path / "mine"), "mine/config.json", "mine")]

    assert models[0] == models[1] == models[2]
    assert models[0].num_kv_heads == 4


@pytest.mark.parametrize("folder", ["clone-a", "Another clone (2)"])
def test_the_folder_a_config_lies_in_names_nothing(tmp_path: Path, folder: str) -> None:
    first = read_config(write_config(tmp_path, LLAMA))

    second = read_config(write_config(tmp_path, LLAMA).parent.rename(tmp_path / folder))

    assert second == first
    assert re.fullmatch(r"llama-[0-9a-f]{8}", first.name)


@pytest.mark.parametrize(
    ("file", "origin", "name"),
    [
        ("Llama-2B.v2.json", "meta-llama/Llama-3.1-8B", "llama-2b.v2"),
        ("My model (2).json", None, "my-model-2"),
        ("config.json", "meta-llama/Llama-3.1-8B", "llama-3.1-8b"),
        ("config.json", "/data/checkpoints/step 1000/", "step-1000"),
        ("config.json", "C:\\models\\mine", "mine"),
    ],
)
def test_a_file_or_where_it_comes_from_names_the_model(
    tmp_path: Path, file: str, origin: str | None, name: str
) -> None:
    path = write_config(tmp_path, LLAMA | {"_name_or_path": origin})

    assert read_config(path.rename(path.with_name(file))).name == name


@pytest.mark.parametrize("origin", ["", ".", "./", "../..", 5, None])
def test_an_origin_that_is_no_name_is_none(tmp_path: Path, origin: object) -> None:
    assert read_config(write_config(tmp_path, LLAMA | {"_name_or_path": origin})).name.startswith("llama-")


def test_only_what_makes_another_architecture_makes_another_name(tmp_path: Path) -> None:
    said: list[dict[str, object]] = [
        {},
        {"torch_dtype": "bfloat16", "use_cache": False, "attention_bias": None},
        {"num_hidden_layers": 4},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
    ]

    names = [read_config(write_config(tmp_path, LLAMA | keys)).name for keys in said]

    assert names[0] == names[1]
    assert len(set(names)) == 3


@pytest.mark.parametrize("path", ["mine", "mine/config.json"])
def test_a_path_has_a_twin_as_a_catalog_name_has(tmp_path: Path, path: str) -> None:
    write_config(tmp_path, LLAMA)

    assert find_model(f"{tmp_path / path}-twin") == twin_of(find_model(str(tmp_path / path)))


def test_a_directory_may_end_as_twins_do(tmp_path: Path) -> None:
    directory = tmp_path / "my-twin"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")

    assert find_model(str(directory)).hidden_size == LLAMA["hidden_size"]


def test_a_catalog_name_wins_over_a_directory_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama3-8b").mkdir()
    monkeypatch.chdir(tmp_path)

    assert find_model("llama3-8b").num_layers == 32


def test_the_keys_of_older_files_say_the_same(tmp_path: Path) -> None:
    old = {
        "rope_theta": 50_000.0,
        "partial_rotary_factor": 1.0,
        "rope_scaling": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 1.0},
    }
    new = {"rope_parameters": {"rope_theta": 50_000.0, "rope_type": "yarn", **old["rope_scaling"]}}  # type: ignore[dict-item]  # a table of mixed types
    del old["partial_rotary_factor"]

    first = read_config(write_config(tmp_path, LLAMA | old))
    second = read_config(write_config(tmp_path, LLAMA | new))

    assert replace(first, name=second.name) == second
    assert first.rope_scaling == RopeScaling(kind="yarn", factor=32.0, original_context=4096, high_freq=1.0)
