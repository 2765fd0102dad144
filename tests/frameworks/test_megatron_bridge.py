from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.frameworks.megatron_bridge import MegatronBridgeFramework
from pytest_nemoperf.layouts.layout import Layout
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
    assert "give framework_config=..." in str(FRAMEWORK.unsupported(replace(plan, framework_config="")))
