from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks import requirements
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.plans.trl import grpo_arguments, plan_problems
from pytest_nemoperf.frameworks.requirements import PLUGIN
from pytest_nemoperf.frameworks.trl import TRLFramework
from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.twins import twin_of
from pytest_nemoperf.recipes.ab_turn import ABTurn
from pytest_nemoperf.recipes.algorithms import find_algorithm
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute
from pytest_nemoperf.records.step import STEPS_FILE, StepRecord
from tests.builders import make_plan, make_rl, make_rl_plan

INSTALLED = {
    "trl": "1.16.0",
    "transformers": "5.23.0",
    "accelerate": "1.15.0",
    PLUGIN: importlib.metadata.version(PLUGIN),
}
TURN = ABTurn(directory="/x", side="A", other="B", is_first=True, block_steps=1)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that the interpreter of the run answers with."""
    versions = dict(INSTALLED)
    monkeypatch.setattr(requirements, "installed_versions", lambda _python: versions)
    return versions


def plan_of(*, rl: dict[str, Any] | None = None, **changes: Any) -> Plan:
    values = {"framework": "trl", "layouts": {"cpu": changes.pop("layout", Layout(gpus=1))}, "micro_batch_size": 2}
    return make_rl_plan(rl=make_rl(**(rl or {})), **{**values, **changes})


def arguments_of(plan: Plan) -> dict[str, Any]:
    assert plan.rl is not None
    return grpo_arguments(plan, rl=plan.rl, output_dir="out")


def problems_of(plan: Plan) -> str:
    return "\n".join(plan_problems(plan))


def test_batches_lengths_and_sampling_are_arguments() -> None:
    plan = plan_of(layout=Layout(gpus=2, dp_replicate=2), rl={"temperature": 0.8, "top_k": 5, "learning_rate": 1e-6})

    arguments = arguments_of(plan)

    expected = {
        "max_steps": 16,  # two updates of 4 samples in each of 8 steps
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "generation_batch_size": 8,
        "num_generations": 2,
        "max_completion_length": 24,
        "generation_kwargs": {"min_new_tokens": 24},
        "temperature": 0.8,
        "top_k": 5,
        "learning_rate": 1e-6,
        "beta": 0.04,
        "loss_type": "grpo",
        "bf16": False,
        "use_cpu": True,
    }
    assert {name: arguments[name] for name in expected} == expected


def test_responses_that_are_sampled_have_no_least_length() -> None:
    assert "generation_kwargs" not in arguments_of(plan_of(rl={"response_lengths": "sampled"}))


def test_vllm_generates_on_gpus() -> None:
    plan = plan_of(rl={"generator": "vllm"})

    arguments = arguments_of(replace(plan, device="cuda"))

    assert (arguments["use_vllm"], arguments["vllm_mode"], arguments["use_cpu"]) == (True, "colocate", False)
    assert arguments["generation_kwargs"] == {"min_tokens": 24}
    assert not arguments["vllm_importance_sampling_correction"]
    assert problems_of(replace(plan, device="cuda")) == ""
    assert "generator='vllm' on a CPU" in problems_of(plan)


def test_precision_recomputation_and_algorithm_are_arguments() -> None:
    algorithm = replace(find_algorithm("grpo"), loss_mean="token", kl_coef=0.0, is_std_normalized=False, clip_high=0.3)

    arguments = arguments_of(plan_of(precision="bf16", recompute="full", rl={"algorithm": algorithm}))

    names = ("bf16", "gradient_checkpointing", "loss_type", "beta", "scale_rewards", "epsilon", "epsilon_high")
    assert [arguments[name] for name in names] == [True, True, "dapo", 0.0, "none", 0.2, 0.3]


def test_each_rank_is_our_program_with_the_arguments_in_a_file(tmp_path: Path) -> None:
    plan = plan_of(layout=Layout(gpus=2, dp_replicate=2), framework_options={"num_completions_to_print": 1})

    command = builtin_frameworks()["trl"].command(plan, run_dir=tmp_path)

    assert command.argv[1:] == ("-m", "pytest_nemoperf.trainers.trl")
    assert (command.num_processes, command.is_rank) == (2, True)
    assert command.env["NEMOPERF_STEPS"] == str(tmp_path / STEPS_FILE)
    arguments = json.loads(Path(command.env["NEMOPERF_GRPO"]).read_text(encoding="utf-8"))
    assert arguments["num_completions_to_print"] == 1
    assert arguments["output_dir"] == str(tmp_path / "trl")


def test_a_plan_that_it_can_run_is_not_refused(versions: dict[str, str]) -> None:
    del versions

    assert TRLFramework().unsupported(plan_of()) is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        pytest.param("trl", "pip install trl==1.16.0 pytest-nemoperf", id="missing"),
        pytest.param("transformers", "half installed: trl needs transformers>=5", id="half"),
    ],
)
def test_packages_that_are_not_there_are_named(name: str, words: str, versions: dict[str, str]) -> None:
    del versions[name]

    assert words in str(TRLFramework().unsupported(plan_of()))


def test_a_plan_that_it_can_not_run_is_refused_without_its_packages_too(versions: dict[str, str]) -> None:
    versions.clear()

    assert "workload=pretrain" in str(TRLFramework().unsupported(make_plan(framework="trl")))


def test_pre_training_is_refused() -> None:
    assert "workload=pretrain with framework='trl'" in problems_of(make_plan(framework="trl"))


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        pytest.param(Layout(gpus=2, tp=2), "tp=2: each rank of TRL holds the whole model", id="tp"),
        pytest.param(Layout(gpus=2, pp=2), "pp=2: each rank", id="pp"),
        pytest.param(Layout(gpus=2, cp=2), "cp=2: each rank", id="cp"),
        pytest.param(Layout(gpus=2, dp_shard=2), "dp_shard=2: each rank", id="fsdp"),
        pytest.param(Layout(gpus=2, dp_replicate=2, shard_optimizer=True), "shard_optimizer=True", id="zero-1"),
        pytest.param(
            Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False)), "is_colocated=False", id="apart"
        ),
        pytest.param(
            Layout(gpus=2, dp_replicate=2, generation=GenerationLayout(gpus=2, tp=2)), "generation tp=2", id="gtp"
        ),
    ],
)
def test_axes_other_than_replicas_are_refused_by_name(layout: Layout, words: str) -> None:
    assert words in problems_of(plan_of(layout=layout, micro_batch_size=1))


@pytest.mark.parametrize(
    ("rl", "words"),
    [
        pytest.param({"algorithm": "dapo"}, "algorithm dapo has has_dynamic_sampling=True", id="dapo"),
        pytest.param({"algorithm": "ppo"}, "algorithm ppo has advantage='gae'", id="ppo"),
        pytest.param({"max_staleness": 1}, "max_staleness=1", id="staleness"),
        pytest.param({"is_packed": True}, "is_packed=True", id="packed"),
        pytest.param({"max_batch_size": 2}, "max_batch_size=2", id="slots"),
        pytest.param({"response_lengths": (8, 24)}, "response_lengths of each sample", id="lengths"),
        pytest.param({"dataset": "gsm8k"}, "dataset='gsm8k'", id="dataset"),
        pytest.param({"generator": "sglang"}, "generator='sglang'", id="generator"),
        pytest.param(
            {"num_prompts_per_step": 2, "num_generations_per_prompt": 2},
            "4 samples are not a multiple of micro_batch_size*dp_replicate=8",
            id="batch",
        ),
    ],
)
def test_rollouts_that_it_lacks_are_refused_by_name(rl: dict[str, Any], words: str) -> None:
    plan = plan_of()
    assert plan.rl is not None
    plan = replace(plan, rl=replace(plan.rl, **rl), micro_batch_size=8 if "num_prompts_per_step" in rl else 2)

    assert words in problems_of(plan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"framework_config": "x.yaml"}, "framework_config='x.yaml'", id="file"),
        pytest.param({"log_format": "trl"}, "log_format='trl' is for commands", id="log"),
        pytest.param({"is_command_per_rank": True}, "is_command_per_rank=True is for commands", id="per-rank"),
        pytest.param({"env": {"RANK": "0"}}, "RANK='0' clashes with the launcher", id="rank"),
        pytest.param(
            {"model": twin_of(find_model("qwen3-30b-a3b"))}, "weights of experts are not handed over", id="mixture"
        ),
        pytest.param({"seq_len": 16}, "TRL has no limit for both together; raise seq_len to", id="length"),
        pytest.param({"is_profiled": True}, "is_profiled=True", id="profiled"),
        pytest.param({"turn": TURN}, "a comparison in turns", id="turn"),
        pytest.param({"is_compiled": True}, "is_compiled=True", id="compiled"),
        pytest.param({"is_router_balanced": True}, "is_router_balanced=True", id="balanced"),
        pytest.param({"recompute": Recompute.SELECTIVE}, "recompute=selective", id="recompute"),
        pytest.param({"precision": Precision.FP8_CS}, "precision=fp8_cs", id="precision"),
        pytest.param({"framework_options": {"beta": 0.1}}, "each run sets beta itself", id="option"),
        pytest.param({"framework_options": {"use_vllm": True}}, "each run sets use_vllm itself", id="generator"),
        pytest.param(
            {"framework_options": {"num_iterations": 2}}, "each run sets num_iterations itself", id="iterations"
        ),
        pytest.param(
            {"model": twin_of(find_model("gemma2-2b"))}, "gemma2-2b-twin is no Hugging Face model here", id="model"
        ),
    ],
)
def test_settings_that_it_lacks_are_refused_by_name(change: dict[str, Any], words: str) -> None:
    assert words in problems_of(replace(plan_of(), **change))


def test_the_records_of_the_callback_are_the_output(tmp_path: Path) -> None:
    plan = plan_of()
    framework = TRLFramework()
    framework.command(plan, run_dir=tmp_path)
    lines = [to_json_line(StepRecord(step=step, step_time_sec=0.5, tokens=320)) for step in range(plan.total_steps)]
    (tmp_path / STEPS_FILE).write_text("".join(lines[:-1]), encoding="utf-8")

    with pytest.raises(RecordError, match="has 7 of the plan's 8 steps; see the logs in"):
        framework.read_output(plan, run_dir=tmp_path)
    (tmp_path / STEPS_FILE).write_text("".join(lines), encoding="utf-8")

    assert len(framework.read_output(plan, run_dir=tmp_path).records) == plan.total_steps
