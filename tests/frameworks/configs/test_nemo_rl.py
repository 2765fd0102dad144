from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.frameworks.configs.nemo_rl import read_nemo_rl
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.recipe import Precision, Recompute
from tests.frameworks.nemo_rl_files import GRPO, MEGATRON, SFT, write_file


def read(
    folder: Path, changes: dict[str, Any] | None = None, *, base: Any = GRPO, options: dict[str, Any] | None = None
) -> ConfigValues:
    """Return what is read from a file with changes."""
    path = write_file(folder / "x.yaml", base, changes)
    return read_nemo_rl(path, options=options or {}, env={})


def test_a_recipe_of_dtensor_is_read_whole(tmp_path: Path) -> None:
    values = read(tmp_path)

    assert values.unread == {}
    assert values.model == "llama3.1-8b"
    assert values.gpus == 16
    assert values.values == {
        "seq_len": 4096,
        "global_batch_size": 512,
        "micro_batch_size": 2,
        "precision": Precision.BF16,
        "seed": 42,
    }
    assert values.degrees == {
        "tp": 2,
        "cp": 1,
        "ep": 1,
        "dp_replicate": 1,
        "dp_shard": 0,
        "sequence_parallel": False,
    }
    assert values.generation == {"tp": 4, "pp": 1, "is_colocated": True}


def test_a_recipe_of_megatron_copies_the_weights_to_the_ranks_that_are_left(tmp_path: Path) -> None:
    values = read(tmp_path, MEGATRON)

    assert values.degrees == {
        "tp": 4,
        "pp": 2,
        "vp": 1,
        "cp": 1,
        "ep": 1,
        "etp": 1,
        "dp_shard": 1,
        "dp_replicate": 0,
        "shard_optimizer": False,
        "sequence_parallel": True,
    }
    assert values.values["recompute"] is Recompute.NONE


def test_megatron_s_fsdp_shards_them(tmp_path: Path) -> None:
    key = "policy.megatron_cfg.distributed_data_parallel_config.use_custom_fsdp"
    degrees = read(tmp_path, {**MEGATRON, key: True}).degrees

    assert (degrees["dp_shard"], degrees["dp_replicate"]) == (0, 1)


@pytest.mark.parametrize("is_shared", [True, False])
def test_the_optimizer_of_megatron_says_whether_its_states_are_shared_out(tmp_path: Path, *, is_shared: bool) -> None:
    key = "policy.megatron_cfg.optimizer.use_distributed_optimizer"

    assert read(tmp_path, {**MEGATRON, key: is_shared}).degrees["shard_optimizer"] is is_shared


@pytest.mark.parametrize(
    ("changes", "recompute"),
    [
        pytest.param({"policy.dtensor_cfg.activation_checkpointing": True}, Recompute.FULL, id="dtensor"),
        pytest.param({**MEGATRON, "policy.megatron_cfg.activation_checkpointing": True}, Recompute.FULL, id="megatron"),
        pytest.param(
            {
                **MEGATRON,
                "policy.megatron_cfg.activation_checkpointing": True,
                "policy.megatron_cfg.recompute_granularity": "selective",
            },
            Recompute.SELECTIVE,
            id="megatron, selective",
        ),
    ],
)
def test_recomputation_is_read(tmp_path: Path, changes: dict[str, Any], recompute: Recompute) -> None:
    assert read(tmp_path, changes).values["recompute"] is recompute


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        pytest.param({"policy.precision": "float32"}, Precision.FP32, id="fp32"),
        pytest.param(
            {**MEGATRON, "policy.megatron_cfg.fp8_cfg": {"enabled": True, "fp8_recipe": "blockwise"}},
            Precision.FP8_SC,
            id="blockwise FP8",
        ),
        pytest.param(
            {**MEGATRON, "policy.megatron_cfg.fp8_cfg": {"enabled": True, "fp8_recipe": "tensorwise"}},
            Precision.FP8_CS,
            id="tensorwise FP8",
        ),
        pytest.param(
            {**MEGATRON, "policy.megatron_cfg.fp8_cfg": {"enabled": False, "fp8_recipe": "tensorwise"}},
            Precision.BF16,
            id="FP8 that is off",
        ),
    ],
)
def test_the_number_format_is_that_of_the_training(
    tmp_path: Path, changes: dict[str, Any], precision: Precision
) -> None:
    assert read(tmp_path, changes).values["precision"] is precision


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        pytest.param(
            {"policy.model_name": "team/own"},
            "model",
            "policy.model_name=team/own is neither a known architecture nor a directory with a config.json",
            id="model",
        ),
        pytest.param(
            {"policy.hf_config_overrides": {"num_hidden_layers": 4, "rope_scaling": {"factor": 2.0}}},
            "model",
            "policy.hf_config_overrides changes num_hidden_layers",
            id="a changed model",
        ),
        pytest.param(
            {"policy.max_total_sequence_length": None, "data.max_input_seq_length": 512},
            "seq_len",
            "policy.max_total_sequence_length is not set",
            id="length",
        ),
        pytest.param({"policy.precision": "float16"}, "precision", "policy.precision=float16 has no word here", id="f"),
        pytest.param(
            {**MEGATRON, "policy.megatron_cfg.fp8_cfg": {"enabled": True, "fp8_recipe": "new"}},
            "precision",
            "policy.megatron_cfg.fp8_cfg.fp8_recipe=new has no word here",
            id="FP8",
        ),
        pytest.param(
            {"policy.dtensor_cfg.enabled": False},
            "layouts",
            "neither policy.megatron_cfg.enabled nor policy.dtensor_cfg.enabled is true",
            id="no backend",
        ),
    ],
)
def test_what_can_not_be_read_has_its_reason(tmp_path: Path, changes: dict[str, Any], name: str, reason: str) -> None:
    assert read(tmp_path, changes).unread == {name: reason}


def test_generation_may_have_ranks_of_its_own(tmp_path: Path) -> None:
    colocated = {"enabled": False, "resources": {"num_nodes": 1, "gpus_per_node": 8}}
    values = read(tmp_path, {"policy.generation.colocated": colocated})

    assert values.gpus == 8
    assert values.generation == {"tp": 4, "pp": 1, "is_colocated": False, "gpus": 8}


@pytest.mark.parametrize(
    ("changes", "degrees"),
    [
        pytest.param(
            {"policy.generation": {"backend": "sglang", "sglang_cfg": {"tp_size": 2}}}, {"tp": 2, "pp": 1}, id="sglang"
        ),
        pytest.param(
            {"policy.generation": {"backend": "trtllm", "trtllm_cfg": {"pipeline_parallel_size": 2}}},
            {"tp": 1, "pp": 2},
            id="trtllm",
        ),
        pytest.param(
            {**MEGATRON, "policy.generation": {"backend": "megatron"}}, {"tp": 4, "pp": 2}, id="as megatron trains"
        ),
        pytest.param(
            {
                **MEGATRON,
                "policy.generation": {
                    "backend": "megatron",
                    "mcore_generation_config": {"tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1},
                },
            },
            {"tp": 1, "pp": 1},
            id="megatron",
        ),
    ],
)
def test_the_degrees_of_generation_are_those_of_its_engine(
    tmp_path: Path, changes: dict[str, Any], degrees: dict[str, int]
) -> None:
    assert read(tmp_path, changes).generation == {**degrees, "is_colocated": True}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"policy.dtensor_cfg.automodel_kwargs.backend.fake_balanced_gate": True}, id="dtensor"),
        pytest.param(
            {**MEGATRON, "policy.megatron_cfg.model_overrides.moe_router_force_load_balancing": True}, id="megatron"
        ),
    ],
)
def test_a_balanced_router_is_read(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read(tmp_path, changes).values["is_router_balanced"] is True


def test_fine_tuning_has_lengths_that_vary(tmp_path: Path) -> None:
    values = read(tmp_path, base=SFT)

    assert values.rl is None
    assert values.generation == {}
    assert values.values["has_varying_lengths"] is True
    assert values.values["seed"] == 3


def test_fine_tuning_trains_multi_token_prediction_only_where_the_file_says_so(tmp_path: Path) -> None:
    deepseek = {"policy.model_name": "deepseek-ai/DeepSeek-V3", **MEGATRON}

    for depth, expected in ((None, 0), (0, 0), (1, 1)):
        model = read(tmp_path, {**deepseek, "policy.megatron_cfg.mtp_num_layers": depth}, base=SFT).model
        config = find_model(model) if isinstance(model, str) else model
        assert config.mtp_num_layers == expected


def test_options_count_like_lines_of_the_file(tmp_path: Path) -> None:
    options = {"++policy.train_global_batch_size": 256, "script": "examples/mine.py"}

    assert read(tmp_path, options=options).values["global_batch_size"] == 256


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param(
            "policy.dtensor_cfg.tensor_paralel_size",
            "has no tensor_paralel_size in policy.dtensor_cfg, and .*; did you mean tensor_parallel",
            id="a typo",
        ),
        pytest.param("policyy.precision", "has no policyy, .*; did you mean policy", id="a section's typo"),
        pytest.param("policy.precision.x", "has no x in policy.precision, .*; it has none there", id="below a value"),
        pytest.param("grpo.max_num_steps", "each run sets grpo.max_num_steps itself; use steps= of the", id="steps"),
        pytest.param("++logger.wandb_enabled", "each run sets logger.wandb_enabled itself; leave it out", id="logging"),
        pytest.param("checkpointing", "each run sets checkpointing.enabled itself; leave it out of", id="a section"),
    ],
)
def test_options_are_settings_of_the_file_and_not_of_the_run(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(RecipeError, match=rf"x\.yaml:? {told}"):
        read(tmp_path, options={name: 1})


def test_a_setting_that_the_file_lacks_is_added_by_a_sign(tmp_path: Path) -> None:
    options = {"+policy.dtensor_cfg.activation_checkpointing": True}

    assert read(tmp_path, options=options).values["recompute"] is Recompute.FULL


@pytest.mark.parametrize("base", [GRPO, SFT], ids=["grpo", "sft"])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"policy.dtensor_cfg.lora_cfg": {"enabled": True, "dim": 8}}, id="dtensor"),
        pytest.param({**MEGATRON, "policy.megatron_cfg.peft": {"enabled": True, "dim": 8}}, id="megatron"),
        pytest.param({"policy.peft": {"dim": 8}}, id="the policy"),
    ],
)
def test_adapters_are_refused(tmp_path: Path, base: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml: policy\..* trains adapters on frozen weights, and no FLOPs"):
        read(tmp_path, changes, base=base)


def test_adapters_that_are_off_are_none(tmp_path: Path) -> None:
    off = {"policy.dtensor_cfg.lora_cfg": {"enabled": False}, "policy.megatron_cfg.peft": {"enabled": True}}

    assert read(tmp_path, off).unread == {}


def test_the_digest_is_that_of_what_is_trained(tmp_path: Path) -> None:
    digest = read(tmp_path).digest

    own = {"grpo.max_num_steps": 5, "grpo.val_period": 3, "logger": {"log_dir": "x"}, "checkpointing.enabled": False}
    assert read(tmp_path, own).digest == digest
    assert read(tmp_path, options={"policy.train_global_batch_size": 256}).digest == digest
    assert read(tmp_path, {"grpo.num_prompts_per_step": 64}).digest != digest


@pytest.mark.parametrize(
    ("base", "changes", "told"),
    [
        pytest.param({"dpo": {"a": 1}, "policy": {"b": 1}}, {}, "is a recipe of dpo, and those of grpo, ppo", id="dpo"),
        pytest.param({"services": {}}, {}, "is no recipe of NeMo RL: it has no section policy beside grpo", id="else"),
        pytest.param(
            GRPO, {"on_policy_distillation.enabled": True}, "on_policy_distillation has teachers", id="teachers"
        ),
        pytest.param(
            GRPO, {"data.default.env_name": "reward_model"}, "env.reward_model takes ranks of its own", id="reward"
        ),
    ],
)
def test_other_recipes_are_refused(tmp_path: Path, base: Any, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=rf"x\.yaml:? {told}"):
        read(tmp_path, changes, base=base)


def test_teachers_that_are_off_are_no_obstacle(tmp_path: Path) -> None:
    assert read(tmp_path, {"on_policy_distillation.enabled": False}).model


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"data": {"train": 5}}, "data.train=5 must be a section, or a list of them", id="datasets"),
        pytest.param({"policy.hf_config_overrides": 5}, "hf_config_overrides=5 must be a section", id="a config"),
    ],
)
def test_a_value_in_place_of_a_section_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        read(tmp_path, changes)
