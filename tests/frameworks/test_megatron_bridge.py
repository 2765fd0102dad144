from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.frameworks.configs.bridge import MARKER
from pytest_nemoperf.frameworks.megatron_bridge import MegatronBridgeFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_plan
from tests.frameworks.bridge_files import BENCHMARKS, RECIPES, make_checkout
from tests.frameworks.megatron_files import write_text

FRAMEWORK = MegatronBridgeFramework()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "Megatron-Bridge")


def plan_of(name: str, **changes: Any) -> Any:
    values: dict[str, Any] = {"layouts": {"cpu": Layout(gpus=4, dp_shard=4)}, **changes}
    return make_plan(framework="megatron_bridge", framework_config=name, steps=10, warmup_steps=3, **values)


def test_the_script_runs_with_steps_logging_and_checkpoints_of_its_own(checkout: Path, tmp_path: Path) -> None:
    name = f"{checkout / RECIPES}:tiny_pretrain_config"
    options = {"model.tensor_model_parallel_size": 1, "dataset.note": "a b"}

    words = list(FRAMEWORK.command(plan_of(name, framework_options=options), run_dir=tmp_path).argv)

    assert words[words.index(str(checkout)) + 1 :] == [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "4"),
        *("scripts/training/run_recipe.py", "--recipe", "tiny_pretrain_config"),
        "train.train_iters=13",
        "validation.eval_iters=0",
        "checkpoint.save=null",
        "checkpoint.load=null",
        "logger.log_interval=1",
        "logger.log_throughput=true",
        "logger.tensorboard_dir=null",
        "model.tensor_model_parallel_size=1",
        "dataset.note='a b'",
    ]


def test_what_a_run_overrides_is_no_option(checkout: Path, tmp_path: Path) -> None:
    name = f"{checkout / RECIPES}:tiny_pretrain_config"
    words = FRAMEWORK.command(plan_of(name), run_dir=tmp_path).argv

    for word in words[words.index("tiny_pretrain_config") + 1 :]:
        key = word.partition("=")[0]
        with pytest.raises(RecipeError, match=f"each run sets {key} itself"):
            FRAMEWORK.read_config(Path(name), options={key: 1}, env={})


def test_overrides_of_a_file_come_first_and_the_run_s_after_them(checkout: Path, tmp_path: Path) -> None:
    path = write_text(checkout / "mine.yaml", "train:\n  train_iters: 500\n  global_batch_size: 16\n")
    options = {"recipe": f"{checkout / RECIPES}:tiny_pretrain_config"}

    words = FRAMEWORK.command(plan_of(str(path), framework_options=options), run_dir=tmp_path).argv

    assert "train.global_batch_size=16" in words
    assert "train.train_iters=13" in words
    assert "train.train_iters=500" not in words


def test_the_learning_rate_falls_as_long_as_in_the_recipe(checkout: Path, tmp_path: Path) -> None:
    text = (checkout / RECIPES).read_text(encoding="utf-8")
    text = text.replace("    return cfg\n", '    cfg.scheduler = Scheduler(kind="cosine")\n    return cfg\n', 1)
    write_text(checkout / RECIPES, f"from elsewhere import Scheduler\n{text}")

    words = FRAMEWORK.command(plan_of(f"{checkout / RECIPES}:tiny_pretrain_config"), run_dir=tmp_path).argv

    assert "scheduler.lr_decay_iters=1000" in words


def test_a_length_of_the_training_that_can_not_be_told_is_left_to_the_recipe(checkout: Path, tmp_path: Path) -> None:
    text = (checkout / RECIPES).read_text(encoding="utf-8")
    added = '    cfg.scheduler = Scheduler(kind="cosine")\n    cfg.train.train_iters = steps_of(cfg)\n    return cfg\n'
    text = text.replace("    return cfg\n", added, 1)
    write_text(checkout / RECIPES, f"from elsewhere import Scheduler, steps_of\n{text}")

    words = FRAMEWORK.command(plan_of(f"{checkout / RECIPES}:tiny_pretrain_config"), run_dir=tmp_path).argv

    assert not [word for word in words if word.startswith("scheduler.lr_decay_iters")]


def test_a_recipe_that_can_not_run_says_why(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.chdir(tmp_path)
    plan = plan_of(f"{checkout / BENCHMARKS}:tiny_pretrain_16gpu_h100_fp8cs_config")
    assert "needs megatron, which is not installed beside pytest; install Megatron-Bridge with" in str(
        FRAMEWORK.unsupported(plan)
    )
    assert FRAMEWORK.unsupported(replace(plan, python=sys.executable)) is None

    mine = replace(plan, python=sys.executable, framework_config=str(write_text(checkout / "mine.py", "")) + ":mine")
    assert "is no recipe of megatron.bridge.recipes or perf_recipes" in str(FRAMEWORK.unsupported(mine))
    theirs = replace(
        mine, framework_config=str(write_text(checkout / "mine.yaml", "")), framework_options={"recipe": "mine.py:mine"}
    )
    assert "mine.yaml: mine.py:mine is no recipe of megatron.bridge.recipes" in str(FRAMEWORK.unsupported(theirs))
    outside = replace(plan, framework_config=f"{tmp_path}/x.py:f")
    assert "lies in no checkout of Megatron-Bridge (a folder with scripts/" in str(FRAMEWORK.unsupported(outside))
    with pytest.raises(PlanError, match="lies in no checkout of Megatron-Bridge"):
        FRAMEWORK.command(outside, run_dir=tmp_path)
    without = replace(plan, framework_config="")
    assert str(FRAMEWORK.unsupported(without)).startswith("precision=fp32 is not among Megatron-Bridge's")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the versions that are looked up in every interpreter, Megatron-Bridge's among them."""
    versions = {"megatron-bridge": "0.6.2"}
    monkeypatch.setattr("pytest_nemoperf.frameworks.requirements.installed_versions", lambda _python: versions)
    return versions


def own_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {"model": "llama3-8b", "seq_len": 8192, "global_batch_size": 128, **changes}
    layouts = {"h100": Layout(gpus=8, tp=2, dp_replicate=4, shard_optimizer=True)}
    recipe = Recipe(framework="megatron_bridge", layouts=layouts, steps=10, warmup_steps=3, **values)
    return resolve(recipe, system=find_system("h100"))


@pytest.mark.usefixtures("installed")
def test_a_plan_runs_the_library_s_recipe_with_overrides(checkout: Path, tmp_path: Path) -> None:
    options = {"checkout": str(checkout), "optimizer.lr": 1e-4, "++model.moe_permute_fusion": True}
    plan = own_plan(framework_options=options)

    words = FRAMEWORK.command(plan, run_dir=tmp_path).argv
    words = words[words.index("--nproc_per_node") :]

    assert FRAMEWORK.unsupported(plan) is None
    assert words[:5] == ("--nproc_per_node", "8", MARKER, "--recipe", "llama3_8b_pretrain_config")
    assert words[5:9] == ("--mode", "pretrain", "--dataset", "mock")
    assert "model.tensor_model_parallel_size=2" in words
    assert "train.train_iters=13" in words
    assert "optimizer.lr=0.0001" in words
    assert "++model.moe_permute_fusion=true" in words
    assert not [word for word in words if word.startswith("checkout")]


def test_options_of_plans_and_of_recipe_files_are_not_mixed(checkout: Path) -> None:
    plan = own_plan(framework_options={"checkout": str(checkout), "recipe": "mine.py:config"})

    assert "framework_options has recipe, which is for recipes with framework_config" in str(
        FRAMEWORK.unsupported(plan)
    )
    with pytest.raises(RecipeError, match="framework_options has checkout, which is for recipes without"):
        FRAMEWORK.read_config(checkout / "mine.py:config", options={"checkout": str(checkout)}, env={})


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["model.tensor_model_parallel_size", "++train", "train.train_iters"])
def test_an_option_does_not_contradict_the_plan(checkout: Path, name: str) -> None:
    plan = own_plan(framework_options={"checkout": str(checkout), name: 1})

    assert f"framework_options has {name}, and" in str(FRAMEWORK.unsupported(plan))


def test_a_plan_needs_a_checkout_its_packages_and_a_gpu(
    checkout: Path, tmp_path: Path, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = own_plan()
    there = own_plan(framework_options={"checkout": str(checkout)})

    assert "runs scripts/training/run_recipe.py of its checkout" in str(FRAMEWORK.unsupported(plan))
    with pytest.raises(PlanError, match=r"give framework_options=\{'checkout': 'path/of/it'\}"):
        FRAMEWORK.command(plan, run_dir=tmp_path)
    assert "runs on cuda, and system=cpu is device=cpu" in str(
        FRAMEWORK.unsupported(replace(there, system="cpu", device="cpu"))
    )
    installed.clear()
    assert "needs megatron-bridge, which is not installed in" in str(FRAMEWORK.unsupported(there))


def test_sharded_weights_get_more_connections(checkout: Path, tmp_path: Path) -> None:
    plan = own_plan(framework_options={"checkout": str(checkout)})
    sharded = replace(plan, layout=Layout(gpus=8, dp_shard=8))

    assert FRAMEWORK.command(sharded, run_dir=tmp_path).env["CUDA_DEVICE_MAX_CONNECTIONS"] == "32"
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in FRAMEWORK.command(plan, run_dir=tmp_path).env
