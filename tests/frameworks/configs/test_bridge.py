from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.bridge import read_bridge
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.recipes.recipe import Precision, Recompute
from tests.frameworks.bridge_files import BENCHMARKS, RECIPES, add_recipe, make_checkout
from tests.frameworks.megatron_files import write_text


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "Megatron-Bridge")


def read(name: Path | str, *, options: dict[str, Any] | None = None) -> ConfigValues:
    return read_bridge(Path(name), options=options or {})


def changed(root: Path, body: str, *, imports: str = "") -> ConfigValues:
    """Return what is read of the little recipe with changes."""
    return read(add_recipe(root, body, imports=imports))


def test_a_recipe_is_read_whole(checkout: Path) -> None:
    values = read(f"{checkout / RECIPES}:tiny_pretrain_config")

    assert values.unread == {}
    assert values.model == "llama3.1-8b"
    assert values.gpus is None
    assert values.values == {
        "seq_len": 4096,
        "global_batch_size": 32,
        "micro_batch_size": 2,
        "precision": Precision.BF16,
        "recompute": Recompute.SELECTIVE,
        "seed": 1234,
        "has_varying_lengths": False,
    }
    assert values.degrees == {
        "tp": 2,
        "pp": 1,
        "cp": 1,
        "ep": 1,
        "etp": 1,
        "vp": 1,
        "sequence_parallel": True,
        "dp_replicate": 0,
        "dp_shard": 1,
        "shard_optimizer": True,
    }


def test_a_benchmark_has_the_gpus_of_its_name(checkout: Path) -> None:
    values = read(f"{checkout / BENCHMARKS}:tiny_pretrain_16gpu_h100_fp8cs_config")

    assert values.unread == {}
    assert values.gpus == 16
    assert values.values["precision"] is Precision.FP8_CS
    assert values.values["global_batch_size"] == 64
    assert values.values["is_router_balanced"] is True


def test_fine_tuning_has_lengths_that_vary(checkout: Path) -> None:
    values = read(f"{checkout / RECIPES}:tiny_sft_config").values

    assert (values["has_varying_lengths"], values["seq_len"]) == (True, 2048)


@pytest.mark.parametrize(
    "name",
    [
        "tiny_pretrain_config",
        "megatron.bridge.recipes.tiny.tiny:tiny_pretrain_config",
        "src/megatron/bridge/recipes/tiny/tiny.py:tiny_pretrain_config",
    ],
)
def test_a_recipe_of_the_working_directory_s_checkout_is_found_by_its_name(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(checkout)

    assert read(name).values["global_batch_size"] == 32


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param("none_config", r"/.*Megatron-Bridge has no recipe none_config; write path/to/file", id="a name"),
        pytest.param(
            "megatron.bridge.none:x", r"there is no /.*megatron/bridge/none\.py; write path/to", id="a module"
        ),
        pytest.param("none.py:x", r"there is no none\.py in /.*; give its path from there", id="a file"),
        pytest.param(f"{RECIPES}:none", r"tiny\.py has no function 'none': known: not_a_recipe", id="a function"),
        pytest.param(f"{RECIPES}:not_a_recipe", "not_a_recipe returns no ConfigContainer; name a recipe", id="another"),
    ],
)
def test_a_recipe_that_is_not_there_is_told(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    monkeypatch.chdir(checkout)

    with pytest.raises(RecipeError, match=told):
        read(name)


def test_a_name_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(RecipeError, match="names no file, and the working directory is no checkout of Megatron-Bridge"):
        read("tiny_pretrain_config")


def test_overrides_in_a_file_are_set_on_their_recipe(checkout: Path) -> None:
    path = write_text(checkout / "mine.yaml", "train:\n  global_batch_size: 128\nmodel:\n  context_parallel_size: 2\n")
    recipe = f"{checkout / RECIPES}:tiny_pretrain_config"

    values = read(path, options={"recipe": recipe, "train.micro_batch_size": 1})

    assert values.degrees["cp"] == 2
    assert (values.values["global_batch_size"], values.values["micro_batch_size"]) == (128, 1)
    with pytest.raises(RecipeError, match=r"mine\.yaml holds overrides, and not the recipe .*\{'recipe': 'path/to"):
        read(path)


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        pytest.param('"bf16-mixed"', Precision.BF16, id="dashes"),
        pytest.param('"bf16_with_mxfp8_mixed"', Precision.MXFP8, id="mxfp8"),
        pytest.param('"bf16_with_nvfp4_mixed"', Precision.NVFP4, id="nvfp4"),
        pytest.param("bf16_with_nvfp4_mixed()", Precision.NVFP4, id="a call"),
        pytest.param("MixedPrecisionConfig()", Precision.FP32, id="none"),
    ],
)
def test_the_number_format_is_that_of_the_products(checkout: Path, precision: str, expected: Precision) -> None:
    imports = "from megatron.bridge.training.mixed_precision import MixedPrecisionConfig, bf16_with_nvfp4_mixed"

    assert changed(checkout, f"cfg.mixed_precision = {precision}", imports=imports).values["precision"] is expected


@pytest.mark.parametrize(
    ("body", "degrees"),
    [
        pytest.param(
            "cfg.model.pipeline_model_parallel_size = 4\ncfg.model.virtual_pipeline_model_parallel_size = 2",
            {"pp": 4, "vp": 2},
            id="chunks",
        ),
        pytest.param(
            'cfg.model.pipeline_model_parallel_size = 2\ncfg.model.pipeline_model_parallel_layout = "Et|(tt|)*2tL"',
            {"pp": 2, "vp": 2},
            id="a layout",
        ),
        pytest.param(
            "cfg.model.pipeline_model_parallel_size = 2\n"
            'cfg.model.pipeline_model_parallel_layout = [["embedding"], ["decoder"] * 3, ["decoder"], ["loss"]]',
            {"pp": 2, "vp": 2},
            id="a layout as a list",
        ),
        pytest.param(
            'cfg.model.context_parallel_size = 2\ncfg.model.cp_comm_type = "a2a"', {"cp": 2, "cp_comm": "a2a"}, id="a2a"
        ),
        pytest.param(
            'cfg.ddp.use_megatron_fsdp = True\ncfg.ddp.data_parallel_sharding_strategy = "optim_grads_params"',
            {"dp_replicate": 1, "dp_shard": 0, "shard_optimizer": False},
            id="fsdp",
        ),
        pytest.param(
            'cfg.ddp.use_megatron_fsdp = True\ncfg.ddp.data_parallel_sharding_strategy = "optim"',
            {"dp_replicate": 0, "dp_shard": 1, "shard_optimizer": True},
            id="zero 1 of megatron fsdp",
        ),
        pytest.param("cfg.ddp.use_distributed_optimizer = False", {"shard_optimizer": False}, id="whole states"),
        pytest.param(
            "cfg.ddp.use_distributed_optimizer = False\ncfg.optimizer.use_distributed_optimizer = True",
            {"shard_optimizer": True},
            id="shared states, by the optimizer",
        ),
    ],
)
def test_degrees_are_read(checkout: Path, body: str, degrees: dict[str, Any]) -> None:
    values = changed(checkout, body)

    assert values.unread == {}
    assert {name: values.degrees.get(name) for name in degrees} == degrees


def test_experts_take_the_tensor_parallel_degree_unless_they_have_their_own(checkout: Path) -> None:
    body = (
        'cfg.model = AutoBridge.from_hf_pretrained("Qwen/Qwen3-30B-A3B").to_megatron_provider()\n'
        "cfg.model.tensor_model_parallel_size = 2\ncfg.model.expert_model_parallel_size = 8\n"
    )
    imports = "from megatron.bridge.models import AutoBridge"

    assert changed(checkout, body, imports=imports).degrees["etp"] == 2
    own = changed(checkout, body + "cfg.model.expert_tensor_parallel_size = 1", imports=imports)
    assert (own.degrees["ep"], own.degrees["etp"]) == (8, 1)


@pytest.mark.parametrize(
    ("body", "name", "reason"),
    [
        pytest.param("cfg.dataset.seq_length = None", "seq_len", "cfg.dataset.seq_length is not set", id="length"),
        pytest.param(
            "cfg.train.global_batch_size = machine.size()",
            "global_batch_size",
            "cfg.train.global_batch_size is not set",
            id="a call",
        ),
        pytest.param(
            "if machine.is_new():\n    cfg.train.global_batch_size = 8",
            "global_batch_size",
            "cfg.train.global_batch_size can't be told from the source",
            id="a condition",
        ),
        pytest.param(
            'cfg.mixed_precision = "fp16_mixed"',
            "precision",
            "cfg.mixed_precision.fp16=True has no word here",
            id="fp16",
        ),
        pytest.param(
            "cfg.mixed_precision = machine.precision",
            "precision",
            "cfg.mixed_precision can't be told from the source",
            id="a format of elsewhere",
        ),
        pytest.param(
            "cfg.model.tensor_model_parallel_size = machine.size()",
            "layouts",
            "tp can't be told from the source",
            id="a degree",
        ),
        pytest.param(
            'if machine.is_new():\n    cfg.model.recompute_granularity = "full"',
            "recompute",
            "can't be told from the source",
            id="recomputation",
        ),
        pytest.param(
            "cfg.model.num_layers = 4", "model", "the recipe changes cfg.model.num_layers", id="another architecture"
        ),
    ],
)
def test_what_can_not_be_read_has_its_reason(checkout: Path, body: str, name: str, reason: str) -> None:
    assert changed(checkout, body, imports="from elsewhere import machine").unread == {name: reason}


@pytest.mark.parametrize("dataset", ["", "\ncfg.dataset = Chat(seq_length=2048)"], ids=["full", "varying"])
def test_adapters_are_refused_with_lengths_of_any_kind(checkout: Path, dataset: str) -> None:
    with pytest.raises(RecipeError, match=r"cfg\.peft trains adapters on frozen weights, and no FLOPs convention"):
        changed(checkout, f"cfg.peft = LoRA(dim=8){dataset}", imports="from elsewhere import Chat, LoRA")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        pytest.param(
            "train.micro_batch_sise",
            "'micro_batch_sise' in framework_options is not known; did you mean micro",
            id="typo",
        ),
        pytest.param("traim.micro_batch_size", "'traim' in framework_options is not known", id="a section's typo"),
        pytest.param(
            "train.train_iters", "each run sets train.train_iters itself; use steps= of the recipe", id="steps"
        ),
        pytest.param("++checkpoint.save", "each run sets checkpoint.save itself; leave it out", id="checkpoints"),
    ],
)
def test_options_are_settings_of_the_recipe_and_not_of_the_run(checkout: Path, name: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        read(f"{checkout / RECIPES}:tiny_pretrain_config", options={name: 1})


def test_names_that_the_source_does_not_tell_are_passed_on(checkout: Path) -> None:
    options = {"train.manual_gc": True, "model.num_moe_experts": 2, "++train.micro_batch_sise": 1}

    assert read(f"{checkout / RECIPES}:tiny_pretrain_config", options=options).values["micro_batch_size"] == 2


def test_the_digest_is_that_of_what_is_trained(checkout: Path) -> None:
    digest = changed(checkout, "cfg.train.global_batch_size = 8").digest

    own = "cfg.train.global_batch_size = 8\ncfg.train.train_iters = 5\ncfg.checkpoint.save = 'x'"
    assert changed(checkout, own).digest == digest
    assert changed(checkout, "cfg.train.global_batch_size = 16").digest != digest
    assert read(add_recipe(checkout, "cfg.train.global_batch_size = 8"), options={"train.x": 1}).digest == digest
