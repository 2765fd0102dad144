from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.json_codec import from_json, to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.recipe import Precision, Recipe, check_tolerances
from tests.schema_check import schema_faults

ONE_RANK = {"cpu": Layout(gpus=1)}
percents = st.floats(1e-6, 100, exclude_max=True)
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,10}", fullmatch=True)
layouts = st.builds(
    lambda replicas, shards, tp: Layout(gpus=replicas * shards * tp, dp_replicate=replicas, dp_shard=shards, tp=tp),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
)
models = st.one_of(
    st.sampled_from(["llama-tiny", "llama3-8b"]),
    st.builds(
        lambda name, heads, width: ModelConfig(
            name=name,
            hidden_size=width,
            num_layers=2,
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=2 * width,
            ffn_hidden_size=width,
            vocab_size=width,
            norm_eps=1e-6,
        ),
        words,
        st.integers(1, 8),
        st.integers(1, 64),
    ),
)
recipes = st.builds(
    Recipe,
    model=models,
    layouts=st.dictionaries(st.sampled_from(["cpu", "h100", "gb200"]), layouts, min_size=1),
    seq_len=st.integers(1, 10_000),
    global_batch_size=st.integers(1, 10_000),
    micro_batch_size=st.integers(1, 64),
    precision=st.sampled_from(Precision),
    framework=st.sampled_from(["torch", "megatron"]),
    variant=st.one_of(st.just(""), words),
    steps=st.integers(4, 100),
    warmup_steps=st.integers(2, 10),
    seed=st.integers(0, 2**31),
    flops_convention=st.sampled_from(["megatron-bridge", "full-attention"]),
    tolerances=st.dictionaries(st.sampled_from(["all", "tokens_per_sec_per_gpu"]), percents),
    timeout_sec=st.one_of(st.none(), st.floats(1, 1e6)),
    env=st.dictionaries(words, st.text(characters, max_size=8), max_size=3),
)


def _make(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": "llama-tiny",
        "layouts": ONE_RANK,
        "seq_len": 128,
        "global_batch_size": 4,
    }
    return Recipe(**(values | changes))


@given(recipes)
def test_a_recipe_survives_being_saved_and_loaded(recipe: Recipe) -> None:
    text = to_json(recipe)

    assert schema_faults(json.loads(text), name="recipe") == []
    assert from_json(Recipe, text, subject="recipe") == recipe


def test_a_recipe_takes_plain_words_and_mappings() -> None:
    recipe = _make(layouts={"h100": {"gpus": 8, "tp": 2, "dp_shard": 4}}, precision="fp32")

    assert recipe.layouts == {"h100": Layout(gpus=8, tp=2, dp_shard=4)}
    assert recipe.precision is Precision.FP32


def test_a_recipe_finds_its_catalog_model() -> None:
    assert _make(model="llama3-8b").model_config == find_model("llama3-8b")


@pytest.mark.parametrize("model", ["llama3-8b", find_model("llama3-8b"), "llama3-8b-twin"])
def test_a_recipe_may_name_its_model_otherwise(model: str | ModelConfig) -> None:
    recipe = _make(model=model, model_name="mine")

    assert recipe.model_config == replace(_make(model=model).model_config, name="mine")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"model": "llama3-9b"}, r"unknown model 'llama3-9b'; did you mean", id="model"),
        pytest.param({"model_name": "Mine"}, "model name 'Mine' is part of the case id", id="model name"),
        pytest.param({"precision": "bf61"}, r"unknown precision 'bf61'; did you mean bf16", id="precision"),
        pytest.param({"layouts": {}}, r"names no system; give at least one", id="no layout"),
        pytest.param({"layouts": {"h10": Layout(gpus=1)}}, r"unknown system 'h10'", id="system"),
        pytest.param(
            {"layouts": {"cpu": {"gpus": 1, "ttp": 1}}},
            r"unknown key 'ttp' of the layout for system cpu; did you mean tp",
            id="layout key",
        ),
        pytest.param({"layouts": {"cpu": {"tp": 1}}}, r"layout for system cpu lacks 'gpus'", id="no gpus"),
        pytest.param({"seq_len": 0}, r"seq_len=0 must be a whole number >= 1", id="seq_len"),
        pytest.param({"global_batch_size": 1.5}, r"global_batch_size=1.5 must be a whole number", id="gbs"),
        pytest.param({"micro_batch_size": True}, r"micro_batch_size=True must be a whole number", id="mbs"),
        pytest.param({"warmup_steps": 1}, r"warmup_steps=1 must be >= 2", id="warm-up"),
        pytest.param({"steps": 3}, r"steps=3 must be >= 4", id="steps"),
        pytest.param({"timeout_sec": 0}, r"timeout_sec=0 must be a number above 0 or None", id="time-out"),
        pytest.param(
            {"timeout_sec": "60"}, r"timeout_sec='60' must be a number above 0 or None", id="time-out as text"
        ),
        pytest.param({"timeout_sec": float("inf")}, r"timeout_sec=inf must be a finite number", id="endless time-out"),
        pytest.param({"variant": "A/B"}, r"variant 'A/B' is part of the case id", id="variant"),
        pytest.param({"framework": "My Own"}, r"framework 'My Own' is part of the case id", id="framework name"),
        pytest.param({"framework": ""}, r"framework '' is part of the case id", id="no framework name"),
        pytest.param({"framework": "command"}, r"framework='command' and an argv .* belong together", id="no argv"),
        pytest.param({"command": ("true",)}, r"framework='torch' with command=\['true'\]", id="argv"),
        pytest.param({"flops_convention": "megatron"}, r"unknown FLOPs convention 'megatron'", id="convention"),
        pytest.param({"seed": 1.5}, r"seed=1.5 must be a whole number", id="seed"),
        pytest.param({"is_compiled": "no"}, r"is_compiled='no' must be True or False", id="compiled"),
        pytest.param({"is_router_balanced": 1}, r"is_router_balanced=1 must be True or False", id="balanced"),
        pytest.param(
            {"layouts": {"cpu": {"gpus": 1, "sequence_parallel": "no"}}},
            r"sequence_parallel='no' of a layout must be",
            id="sp",
        ),
        pytest.param({"env": {"N": 1}}, r"env\['N'\]=1 must be a text; write str", id="number in env"),
        pytest.param({"env": ["N=1"]}, r"env=\['N=1'\] must be a mapping", id="list as env"),
        pytest.param(
            {"framework": "command", "command": ("python", 3)},
            r"command\[1\]=3 must be a text; write str",
            id="number in argv",
        ),
        pytest.param(
            {"framework": "command", "command": ("python x.py",)},
            r"command=\['python x.py'\] is one word with spaces .* give a list of words, .* shlex.split makes one",
            id="line as a word",
        ),
        pytest.param(
            {"framework": "command", "command": ("python", "a\0b")},
            r"command\[1\]='a\\x00b' has a NUL character",
            id="nul in argv",
        ),
        pytest.param({"env": {"A=B": "1"}}, r"env: 'A=B' is no name of an environment variable", id="name in env"),
        pytest.param({"seq_len": 10**30}, r"seq_len=10\*\*30 is beyond 1,000,000,000; the longest", id="length"),
        pytest.param({"seed": 2**64}, r"seed=18446744073709551616 .*is beyond", id="seed"),
        pytest.param({"model": "x" * 5_000}, r"model='xx.* \.\.\. has 5,000 characters", id="long model"),
        pytest.param({"model": 5}, r"model=5 must be a text or a ModelConfig", id="number as model"),
        pytest.param({"layouts": []}, r"layouts=\[\] must be layouts by system name", id="list of layouts"),
        pytest.param({"layouts": {"cpu": 1}}, r"the layout for system cpu is 1; give a Layout", id="number as layout"),
        pytest.param(
            {"layouts": {"cpu": {"gpus": 1, "generation": {"ranks": 1}}}},
            r"unknown key 'ranks' of the generation layout for system cpu",
            id="generation key",
        ),
        pytest.param({"tolerances": 3}, r"tolerances=3 must be a mapping", id="number as tolerances"),
        pytest.param({"precision": []}, r"unknown precision \[\]; known: bf16", id="list as precision"),
        pytest.param(
            {"framework": "command", "command": "python x.py"}, r"command='python x.py' must be a list", id="one text"
        ),
        pytest.param({"notes": "a draft"}, r"notes='a draft' must be a list of texts; write e\.g\.", id="one note"),
        pytest.param({"notes": [1]}, r"notes\[0\]=1 must be a text", id="a number as a note"),
        pytest.param(
            {"extra_metrics": ("checkpoint_sec",)}, r"'checkpoint_sec' is no metric .* did you mean", id="extra metric"
        ),
        pytest.param({"extra_metrics": ("step_time_sec",)}, r"'step_time_sec' is no metric that is", id="usual metric"),
        pytest.param({"extra_metrics": ("compile_time_sec",) * 2}, r"names a metric twice", id="extra metric twice"),
        pytest.param({"extra_metrics": "compile_time_sec"}, r"must be a list of texts", id="text as extra metrics"),
        pytest.param({"env": {"RANK": "0"}}, r"env: RANK='0' clashes with the launcher, which sets RANK", id="rank"),
        pytest.param(
            {"framework": "command", "command": ("x",), "is_command_per_rank": True, "env": {"MASTER_PORT": "1"}},
            r"env: MASTER_PORT='1' clashes with the launcher, .* a command with is_command_per_rank=True",
            id="port of ranks",
        ),
        pytest.param({"env": {"NEMOPERF_STEPS": "x"}}, r"env: NEMOPERF_STEPS='x': each run sets", id="our variable"),
        pytest.param({"log_file": "x.log"}, r"log_file='x.log' without log_format; name the format", id="log file"),
        pytest.param({"python": "/usr/bin/python3"}, r"are for commands, and framework='torch' is the", id="python"),
        pytest.param(
            {"framework": "command", "command": ("x", "--n={total_step}")},
            r"command: \{total_step\} in '--n=\{total_step\}' is no placeholder; did you mean \{total_steps\}\?",
            id="placeholder",
        ),
        pytest.param({"model": ""}, r"model is missing; give it, or framework_config", id="no model"),
        pytest.param({"gpus": {"cpu": 2}}, r"gpus=\{'cpu': 2\} without framework_config", id="gpus"),
        pytest.param({"gpus": 2}, r"gpus=2 must be a mapping", id="number of gpus"),
        pytest.param(
            {"framework_config": Path("x.yaml")},
            r"framework_config=PosixPath\('x.yaml'\) must be a text; write str",
            id="path of a file",
        ),
        pytest.param({"python": None}, "python=None must be a text", id="no interpreter"),
        pytest.param({"framework": None}, r"framework=None must be a text", id="none as framework"),
        pytest.param({"tolerances": {"speed": 5.0}}, r"tolerances: 'speed' is not a judged metric", id="metric"),
    ],
)
def test_a_recipe_that_breaks_a_rule_says_which(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _make(**changes)


def test_a_command_that_starts_its_own_ranks_may_be_told_where_they_meet() -> None:
    recipe = _make(framework="command", command=("torchrun", "train.py"), env={"MASTER_PORT": "29511"})

    assert recipe.env == {"MASTER_PORT": "29511"}


@pytest.mark.parametrize("percent", [0, -1.0, 100, float("nan"), True, "5"], ids=repr)
def test_a_tolerance_is_a_percentage_above_0_and_below_100(percent: Any) -> None:
    with pytest.raises(RecipeError, match=r"option: all=.* must be a percentage above 0 and below 100"):
        check_tolerances({"all": percent}, subject="option")


def test_a_broken_rule_in_a_file_is_named_with_its_json_path() -> None:
    text = to_json(_make()).replace('"gpus": 1', '"gpus": 2')

    with pytest.raises(RecipeError, match=r"mine\.json: \$\.layouts: gpus=2 but"):
        from_json(Recipe, text, subject="mine.json", error=RecipeError)
