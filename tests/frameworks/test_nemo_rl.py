from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.frameworks.nemo_rl import NemoRLFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_plan
from tests.frameworks.nemo_rl_files import GRPO, MEGATRON, SFT, write_file

FRAMEWORK = NemoRLFramework()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make the folders of NeMo RL that a launch looks for."""
    root = tmp_path / "RL"
    for name in ("run_grpo", "run_sft", "run_grpo_single_controller", "nemo_gym/run_grpo_nemo_gym", "mine"):
        script = root / "examples" / f"{name}.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.touch()
    return root


def words_of(path: Path, *, run_dir: Path, **changes: Any) -> list[str]:
    """Return the training script and what follows it."""
    run_dir.mkdir(exist_ok=True)
    plan = make_plan(framework="nemo_rl", framework_config=str(path), steps=10, warmup_steps=3, **changes)
    words = list(FRAMEWORK.command(plan, run_dir=run_dir).argv)
    return words[words.index(str(path.parents[1])) + 2 :]


def test_the_script_runs_with_steps_logging_and_checkpoints_of_its_own(checkout: Path, tmp_path: Path) -> None:
    path = write_file(checkout / "recipes" / "x.yaml", GRPO)
    run_dir = tmp_path / "run"

    words = words_of(path, run_dir=run_dir)

    assert words == [
        "examples/run_grpo.py",
        "--config",
        str(path),
        "++grpo.max_num_steps=13",
        "++grpo.val_period=0",
        "++grpo.val_at_start=false",
        "++grpo.val_at_end=false",
        "++checkpointing.enabled=false",
        f"++logger.log_dir={run_dir}/nemo_rl",
        "++logger.tensorboard_enabled=true",
        "++logger.wandb_enabled=false",
        "++logger.mlflow_enabled=false",
        "++logger.swanlab_enabled=false",
    ]


def test_what_a_run_overrides_is_no_option(checkout: Path, tmp_path: Path) -> None:
    path = write_file(checkout / "recipes" / "x.yaml", GRPO)

    for word in words_of(path, run_dir=tmp_path / "run")[3:]:
        name = word.partition("=")[0]
        with pytest.raises(RecipeError, match=f"each run sets {name.lstrip('+')} itself"):
            FRAMEWORK.read_config(path, options={name: 1}, env={})


def test_options_follow_in_their_grammar(checkout: Path, tmp_path: Path) -> None:
    path = write_file(checkout / "recipes" / "x.yaml", GRPO)

    words = words_of(
        path,
        run_dir=tmp_path / "run",
        framework_options={"policy.megatron_cfg.enabled": False, "+data.note": "a, b", "script": "examples/mine.py"},
    )

    assert words[0] == "examples/mine.py"
    assert words[-2:] == ["++policy.megatron_cfg.enabled=false", "++data.note='a, b'"]


@pytest.mark.parametrize(
    ("base", "changes", "script"),
    [
        pytest.param(SFT, {}, "examples/run_sft.py", id="fine-tuning"),
        pytest.param(GRPO, {"async_rl.sampler": {}}, "examples/run_grpo_single_controller.py", id="one controller"),
        pytest.param(
            GRPO, {"env.should_use_nemo_gym": True}, "examples/nemo_gym/run_grpo_nemo_gym.py", id="environments"
        ),
    ],
)
def test_the_script_is_that_of_the_algorithm(
    checkout: Path, tmp_path: Path, base: Any, changes: dict[str, Any], script: str
) -> None:
    path = write_file(checkout / "recipes" / "x.yaml", base, changes)

    assert words_of(path, run_dir=tmp_path / "run")[0] == script


def test_a_script_that_is_not_there_is_asked_for(checkout: Path, tmp_path: Path) -> None:
    path = write_file(checkout / "recipes" / "x.yaml", GRPO)

    with pytest.raises(PlanError, match=r"there is no examples/none\.py in /.*RL, the checkout .*\{'script': \.\.\.\}"):
        words_of(path, run_dir=tmp_path / "run", framework_options={"script": "examples/none.py"})


def test_the_file_may_lie_elsewhere_if_pytest_runs_in_the_checkout(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path / "x.yaml", GRPO)
    plan = make_plan(framework="nemo_rl", framework_config=str(path))
    monkeypatch.chdir(tmp_path)
    assert str(FRAMEWORK.unsupported(plan)).startswith(f"framework_config={path} lies in no checkout of NeMo RL")
    with pytest.raises(PlanError, match="lies in no checkout of NeMo RL"):
        FRAMEWORK.command(plan, run_dir=tmp_path)
    monkeypatch.chdir(checkout)

    command = FRAMEWORK.command(plan, run_dir=tmp_path)

    assert command.argv[:2] == (sys.executable, "examples/run_grpo.py")


def test_a_driver_s_packages_are_asked_for_unless_they_are_another_interpreter_s(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    path = str(write_file(checkout / "recipes" / "x.yaml", GRPO))
    plan = make_plan(framework="nemo_rl", framework_config=path)

    assert "needs ray, which is not installed beside pytest; install NeMo RL with" in str(FRAMEWORK.unsupported(plan))
    assert FRAMEWORK.unsupported(replace(plan, python="/opt/rl/bin/python")) is None


def rl_plan(**changes: Any) -> Plan:
    rl = RL(
        num_prompts_per_step=16,
        num_generations_per_prompt=4,
        prompt_len=512,
        max_response_len=512,
        response_lengths="sampled",
        generator="vllm",
    )
    values: dict[str, Any] = {"model": "llama3.1-8b", "seq_len": 1024, "global_batch_size": 64, "rl": rl, **changes}
    layouts = {"h100": Layout(gpus=8, dp_replicate=8)}
    recipe = Recipe(framework="nemo_rl", layouts=layouts, steps=10, warmup_steps=3, **values)
    return resolve(recipe, system=find_system("h100"))


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the versions that are looked up in every interpreter, NeMo RL's among them."""
    versions = {"nemo-rl": "0.6.0"}
    monkeypatch.setattr("pytest_nemoperf.frameworks.requirements.installed_versions", lambda _python: versions)
    return versions


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("options", "file"),
    [
        pytest.param({}, "examples/configs/grpo_math_1B_megatron.yaml", id="megatron"),
        pytest.param({"backend": "dtensor"}, "examples/configs/grpo_math_1B.yaml", id="dtensor"),
    ],
)
def test_a_plan_runs_the_base_file_of_its_backend_with_overrides(
    checkout: Path, tmp_path: Path, options: dict[str, Any], file: str
) -> None:
    options = {"checkout": str(checkout), "policy.generation.vllm_cfg.gpu_memory_utilization": 0.8, **options}
    plan = rl_plan(framework_options=options)

    words = FRAMEWORK.command(plan, run_dir=tmp_path).argv
    words = words[words.index("examples/run_grpo.py") :]

    assert FRAMEWORK.unsupported(plan) is None
    assert words[:3] == ("examples/run_grpo.py", "--config", file)
    assert {word[:2] for word in words[3:]} == {"++"}
    assert "++grpo.num_prompts_per_step=16" in words
    assert "++policy.generation.vllm_cfg.gpu_memory_utilization=0.8" in words
    assert "++policy.model_name=meta-llama/Llama-3.1-8B-Instruct" in words
    assert "++grpo.max_num_steps=13" in words
    assert f"++logger.log_dir={tmp_path / 'nemo_rl'}" in words
    assert not [word for word in words if "checkout" in word or "backend=dtensor" in word]


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("policy.train_global_batch_size", "comes from the plan: the recipe says it by fields of its own"),
        ("policy.megatron_cfg", "comes from the plan: the recipe says it by fields of its own"),
        ("++grpo.max_num_steps", "comes from the plan: each run sets it itself; leave it out"),
    ],
)
def test_an_option_does_not_contradict_the_plan(checkout: Path, name: str, message: str) -> None:
    plan = rl_plan(framework_options={"checkout": str(checkout), name: 1})

    assert message in str(FRAMEWORK.unsupported(plan))


def test_options_of_plans_and_of_recipe_files_are_not_mixed(checkout: Path) -> None:
    plan = rl_plan(framework_options={"checkout": str(checkout), "script": "examples/run_mine.py"})
    path = write_file(checkout / "grpo.yaml", GRPO)

    assert "framework_options has script, which is for recipes with framework_config" in str(
        FRAMEWORK.unsupported(plan)
    )
    for name in ("backend", "checkout"):
        with pytest.raises(RecipeError, match=f"framework_options has {name}, which is for recipes without"):
            FRAMEWORK.read_config(path, options={name: "dtensor"}, env={})


def test_a_plan_needs_a_checkout_its_packages_and_a_gpu(
    checkout: Path, tmp_path: Path, installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = rl_plan()
    there = rl_plan(framework_options={"checkout": str(checkout)})

    assert "runs examples/run_grpo.py of its checkout" in str(FRAMEWORK.unsupported(plan))
    with pytest.raises(PlanError, match=r"give framework_options=\{'checkout': 'path/of/it'\}"):
        FRAMEWORK.command(plan, run_dir=tmp_path)
    assert "inject_pct=20 delays steps from inside" in str(FRAMEWORK.unsupported(replace(there, inject_pct=20.0)))
    assert "runs on cuda, and system=cpu is device=cpu" in str(
        FRAMEWORK.unsupported(replace(there, system="cpu", device="cpu"))
    )
    installed.clear()
    assert "needs nemo-rl, which is not installed in" in str(FRAMEWORK.unsupported(there))


def test_a_plan_that_can_not_run_has_no_command(checkout: Path, tmp_path: Path) -> None:
    plan = rl_plan(is_compiled=True, framework_options={"checkout": str(checkout)})

    with pytest.raises(PlanError, match="is_compiled=True has no setting in NeMo RL"):
        FRAMEWORK.command(plan, run_dir=tmp_path)


def test_pre_training_without_a_file_can_not_run() -> None:
    assert "workload='pretrain'" in str(FRAMEWORK.unsupported(make_plan(framework="nemo_rl")))


@pytest.mark.parametrize(("changes", "owner"), [({}, "the native engine"), (MEGATRON, "Megatron-Core")])
def test_memory_is_counted_by_the_rules_of_the_backend_and_the_host_keeps_the_reference(
    changes: dict[str, Any], owner: str, tmp_path: Path
) -> None:
    path = write_file(tmp_path / "grpo.yaml", GRPO, changes)
    plan = replace(make_plan(), framework="nemo_rl", framework_config=str(path))

    rules = FRAMEWORK.memory_rules(plan)

    assert rules.owner == owner
    assert rules.has_reference_on_host
    assert rules.has_state_on_host
