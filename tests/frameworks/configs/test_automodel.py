from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.automodel import read_automodel
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.recipe import Precision, Recompute
from tests.frameworks.automodel_files import BENCHMARK, TRAINING
from tests.frameworks.nemo_rl_files import write_file


def read(
    folder: Path, changes: dict[str, Any] | None = None, *, base: Any = TRAINING, options: dict[str, Any] | None = None
) -> ConfigValues:
    """Return what is read from a file with changes."""
    return read_automodel(write_file(folder / "x.yaml", base, changes), options=options or {})


def model_of(values: ConfigValues) -> ModelConfig:
    assert values.model, values.unread
    return find_model(values.model) if isinstance(values.model, str) else values.model


def test_a_training_recipe_is_read_whole(tmp_path: Path) -> None:
    values = read(tmp_path)

    assert values.unread == {}
    assert values.model == "qwen3-8b"
    assert values.gpus is None
    assert values.values == {
        "seq_len": 2048,
        "global_batch_size": 64,
        "micro_batch_size": 2,
        "has_varying_lengths": False,
        "precision": Precision.BF16,
        "is_compiled": False,
        "seed": 17,
    }
    assert values.degrees == {
        "tp": 2,
        "pp": 1,
        "cp": 1,
        "ep": 1,
        "dp_replicate": 1,
        "dp_shard": 0,
        "sequence_parallel": True,
    }


def test_a_benchmark_recipe_is_read_whole(tmp_path: Path) -> None:
    values = read(tmp_path, base=BENCHMARK)

    assert values.unread == {}
    assert values.values["micro_batch_size"] == 1
    assert values.values["is_router_balanced"] is True
    assert values.values["recompute"] is Recompute.FULL
    assert (values.degrees["pp"], values.degrees["ep"], values.degrees["vp"]) == (2, 4, 2)  # 48 layers, 12 a stage


@pytest.mark.parametrize(
    ("changes", "degrees"),
    [
        pytest.param({"distributed.dp_replicate_size": 2}, {"dp_replicate": 2, "dp_shard": 0}, id="hybrid"),
        pytest.param({"distributed.strategy": "DDP"}, {"dp_replicate": 0, "dp_shard": 1}, id="copies"),
        pytest.param({"distributed.strategy": "mfsdp"}, {"dp_replicate": 1, "dp_shard": 0}, id="Megatron-FSDP"),
        pytest.param(
            {"distributed.strategy": "megatron_fsdp", "distributed.zero_dp_strategy": 1},
            {"dp_replicate": 0, "dp_shard": 1},
            id="Megatron-FSDP of optimizer states",
        ),
        pytest.param({"distributed.dp_size": 8, "distributed.dp_replicate_size": 2}, {"dp_shard": 4}, id="all said"),
        pytest.param(
            {"distributed.strategy": "ddp", "distributed.dp_size": 8}, {"dp_replicate": 8, "dp_shard": 1}, id="8 copies"
        ),
        pytest.param(
            {"distributed.pp_size": 2, "distributed.pipeline": {"pp_schedule": "InterleavedZeroBubble"}},
            {"pp": 2, "vp": 2, "pp_schedule": "zero_bubble"},
            id="zero bubble",
        ),
        pytest.param({"distributed.pp_size": 2, "distributed.pipeline": {}}, {"pp": 2, "vp": 1}, id="1f1b"),
        pytest.param(
            {
                "distributed.pp_size": 2,
                "distributed.pipeline": {
                    "pp_schedule": "interleaved1f1b",
                    "layers_per_stage": 10,
                    "round_virtual_stages_to_pp_multiple": "up",
                },
            },
            {"pp": 2, "vp": 2},
            id="36 layers, 10 a stage, rounded up",
        ),
    ],
)
def test_degrees_are_read(tmp_path: Path, changes: dict[str, Any], degrees: dict[str, Any]) -> None:
    values = read(tmp_path, {"model.torch_dtype": "bfloat16", **changes})

    assert values.unread == {}
    assert {name: values.degrees.get(name) for name in degrees} == degrees


def test_the_ranks_are_the_file_s_where_it_says_them_all(tmp_path: Path) -> None:
    assert read(tmp_path, {"distributed.dp_size": 4, "distributed.cp_size": 2}).gpus == 16


@pytest.mark.parametrize(
    ("changes", "precision"),
    [
        pytest.param({"distributed.mp_policy.param_dtype": "torch.float32"}, Precision.FP32, id="fp32"),
        pytest.param({"model.torch_dtype": "float32"}, Precision.BF16, id="weights of another format"),
        pytest.param({"fp8": {"enabled": True, "recipe_name": "tensorwise"}}, Precision.FP8_CS, id="torchao"),
        pytest.param({"model.backend.te_fp8.recipe": "block"}, Precision.FP8_SC, id="blocks"),
        pytest.param({"model.backend.te_fp8.recipe": "mxfp8"}, Precision.MXFP8, id="mxfp8"),
    ],
)
def test_the_number_format_is_that_of_the_products(
    tmp_path: Path, changes: dict[str, Any], precision: Precision
) -> None:
    assert read(tmp_path, changes).values["precision"] is precision


def test_sequences_are_those_of_the_dataset_or_of_a_pack(tmp_path: Path) -> None:
    text = {"dataset._target_": "nemo_automodel.datasets.SquadDataset"}

    assert read(tmp_path, text).values["has_varying_lengths"] is True
    packed = read(tmp_path, {**text, "packed_sequence.packed_sequence_size": 4096}).values
    assert (packed["seq_len"], packed["has_varying_lengths"]) == (4096, True)


@pytest.mark.parametrize(
    ("changes", "name", "reason"),
    [
        pytest.param({"dataset.seq_len": None}, "seq_len", "dataset.seq_length is not set", id="length"),
        pytest.param(
            {"distributed.strategy": "ddp"}, "precision", "model.torch_dtype=auto takes the checkpoint's", id="ddp"
        ),
        pytest.param(
            {"fp8": {"enabled": True, "recipe_name": "rowwise"}},
            "precision",
            "fp8.recipe_name=rowwise has no word here",
            id="rowwise",
        ),
        pytest.param(
            {"model.backend.te_fp8.recipe": "new"},
            "precision",
            "model.backend.te_fp8.recipe=new has no word here",
            id="te",
        ),
        pytest.param(
            {"model.pretrained_model_name_or_path": "team/own"},
            "model",
            "model.pretrained_model_name_or_path=team/own is neither a known architecture nor a directory with a "
            "config.json",
            id="model",
        ),
        pytest.param(
            {"model": {"config": {"pretrained_model_name_or_path": "Qwen/Qwen3-8B", "num_hidden_layers": 4}}},
            "model",
            "model.config changes num_hidden_layers of Qwen/Qwen3-8B",
            id="a changed model",
        ),
        pytest.param(
            {"model": {"config": {"_target_": "mine.Config"}}},
            "model",
            "model.config of mine.Config is not understood",
            id="a config of another kind",
        ),
    ],
)
def test_what_can_not_be_read_has_its_reason(tmp_path: Path, changes: dict[str, Any], name: str, reason: str) -> None:
    assert read(tmp_path, changes).unread == {name: reason}


def test_chunks_of_an_unknown_model_can_not_be_told(tmp_path: Path) -> None:
    unread = read(tmp_path, {"model": {"config": "team/own"}}, base=BENCHMARK).unread

    assert set(unread) == {"model", "layouts"}
    assert "layers_per_stage=12 makes chunks of the model, whose number of layers is not known" in unread["layouts"]


def test_a_model_may_be_written_out(tmp_path: Path) -> None:
    sizes = {
        "_target_": "transformers.models.llama.LlamaConfig",
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 512,
        "vocab_size": 1000,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }

    model = model_of(read(tmp_path, {"model": {"config": sizes}}))

    assert (model.hidden_size, model.num_layers, model.num_kv_heads) == (256, 3, 2)
    unread = read(tmp_path, {"model": {"config": {**sizes, "num_attention_heads": 5}}}).unread["model"]
    assert "num_attention_heads" in unread


def test_a_gpt2_has_the_sizes_of_its_builder(tmp_path: Path) -> None:
    model = model_of(read(tmp_path, {"model": {"_target_": "nemo_automodel.models.build_gpt2_model", "n_layer": 6}}))

    assert (model.num_layers, model.hidden_size, model.vocab_size, model.max_positions) == (6, 768, 50_257, 2048)


def test_multi_token_prediction_is_trained_where_the_class_has_it(tmp_path: Path) -> None:
    key = "model.pretrained_model_name_or_path"

    assert model_of(read(tmp_path, {key: "deepseek-ai/DeepSeek-V3"})).mtp_num_layers == 0
    deeper = read(tmp_path, {key: "deepseek-ai/DeepSeek-V3", "model.num_nextn_predict_layers": 1})
    assert model_of(deeper).mtp_num_layers == 1


@pytest.mark.parametrize("dataset", ["MockIterableDataset", "SquadDataset"])
def test_adapters_are_refused_with_lengths_of_any_kind(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml: peft trains adapters on frozen weights, and no FLOPs convention"):
        read(tmp_path, {"peft.dim": 8, "dataset._target_": f"nemo_automodel.datasets.{dataset}"})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("distributed.tp_sise", "has no tp_sise in distributed, .*; did you mean tp_size or ", id="a typo"),
        pytest.param("compile.enabled", "has no compile, .*write '\\+compile.enabled'", id="another section"),
        pytest.param(
            "step_scheduler.max_steps", "each run sets step_scheduler.max_steps itself; use steps=", id="steps"
        ),
        pytest.param("--checkpoint.enabled", "each run sets checkpoint.enabled itself; leave it out", id="checkpoints"),
        pytest.param("validation_dataset.path", "each run sets validation_dataset itself", id="validation"),
    ],
)
def test_options_are_settings_of_the_file_and_not_of_the_run(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(RecipeError, match=rf"x\.yaml:? {told}"):
        read(tmp_path, {"validation_dataset.a": 1}, options={name: 1})


def test_a_setting_that_the_file_lacks_is_added_by_a_sign(tmp_path: Path) -> None:
    assert read(tmp_path, options={"+compile.enabled": True}).values["is_compiled"] is True


def test_options_count_like_lines_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, options={"--distributed.tp_size": 4}).degrees["tp"] == 4


def test_the_digest_is_that_of_what_is_trained(tmp_path: Path) -> None:
    digest = read(tmp_path).digest

    own = {"step_scheduler.max_steps": 5, "checkpoint": {"enabled": True}, "wandb": {"project": "x"}}
    assert read(tmp_path, own).digest == digest
    assert read(tmp_path, options={"distributed.tp_size": 4}).digest == digest
    assert read(tmp_path, {"distributed.tp_size": 4}).digest != digest


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"recipe": "FinetuneRecipeForVLM"}, "is a recipe of FinetuneRecipeForVLM, and those of", id="vlm"),
        pytest.param({"recipe": None}, "is no recipe of NeMo Automodel: it names none in recipe", id="none"),
    ],
)
def test_other_recipes_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=rf"x\.yaml {told}"):
        read(tmp_path, changes)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "workflow.yaml"
    path.write_text("on: push\njobs: {}\n", encoding="utf-8")

    with pytest.raises(RecipeError, match=r"workflow\.yaml is no recipe of NeMo Automodel"):
        read_automodel(path, options={})
