from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks import requirements
from pytest_nemoperf.frameworks import torchtitan as adapter
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.plans.torchtitan import option_words, plan_problems
from pytest_nemoperf.frameworks.requirements import PLUGIN
from pytest_nemoperf.frameworks.torchtitan import TorchtitanFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.components import RopeScaling
from pytest_nemoperf.models.twins import twin_of
from pytest_nemoperf.recipes.ab_turn import ABTurn
from pytest_nemoperf.recipes.recipe import Plan, Precision
from tests.builders import ROUND_MODEL, make_plan, make_rl_plan
from tests.logs.event_writer import write_events

INSTALLED = {"torchtitan": "0.3.0", "triton": "3.6.0", "torch": "2.14.0", PLUGIN: importlib.metadata.version(PLUGIN)}
TURN = ABTurn(directory="/x", side="A", other="B", is_first=True, block_steps=1)
MIXTURE = twin_of(find_model("qwen3-30b-a3b"))


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that the interpreter of the run answers with."""
    versions = dict(INSTALLED)
    monkeypatch.setattr(requirements, "installed_versions", lambda _python: versions)
    monkeypatch.setattr(adapter, "installed_versions", lambda _python: versions)
    return versions


def plan_of(**changes: Any) -> Plan:
    layout = changes.pop("layout", Layout(gpus=1))
    return make_plan(framework="torchtitan", layouts={"cpu": layout}, **changes)


def on_gpus(plan: Plan) -> Plan:
    return replace(plan, device="cuda")


def problems_of(plan: Plan) -> str:
    return "\n".join(plan_problems(plan, torch="2.14.0"))


def test_each_rank_is_torchtitan_s_own_program_with_our_config(tmp_path: Path) -> None:
    plan = plan_of(
        layout=Layout(gpus=2, dp_shard=2),
        framework_options={"parallelism.fsdp_reshard_after_forward": "never", "training.disable_cuda_graphs": False},
    )

    command = builtin_frameworks()["torchtitan"].command(plan, run_dir=tmp_path)

    assert command.argv[1:] == (
        "-m",
        "torchtitan.train",
        "--module",
        "pytest_nemoperf.trainers.torchtitan",
        "--config",
        "from_plan",
        "--parallelism.fsdp_reshard_after_forward=never",
        "--training.no-disable_cuda_graphs",
    )
    assert (command.num_processes, command.is_rank, command.entrypoint) == (2, True, None)
    assert command.env["NEMOPERF_RUN_DIR"] == str(tmp_path)


def test_options_are_words_of_its_command_line() -> None:
    options = {"compile.backend": "eager", "training.gc_debug": True, "quiet": False}

    assert list(option_words(options)) == ["--compile.backend=eager", "--training.gc_debug", "--no-quiet"]


def test_a_plan_that_it_can_run_is_not_refused(versions: Mapping[str, str]) -> None:
    del versions
    layout = Layout(gpus=16, dp_replicate=2, dp_shard=2, tp=2, pp=2)

    plan = plan_of(layout=layout, global_batch_size=16, recompute="full", is_compiled=True, precision="bf16")

    assert TorchtitanFramework().unsupported(on_gpus(plan)) is None


def test_a_plan_that_it_can_not_run_is_refused_without_its_packages_too(versions: dict[str, str]) -> None:
    versions.clear()
    plan = on_gpus(plan_of(layout=Layout(gpus=2, dp_replicate=2, shard_optimizer=True)))

    assert "shard_optimizer=True" in str(TorchtitanFramework().unsupported(plan))


def test_a_cpu_is_refused(versions: Mapping[str, str]) -> None:
    del versions

    reason = TorchtitanFramework().unsupported(plan_of())

    assert reason == (
        "framework='torchtitan' with device=cpu: torchtitan's attention has no backward pass on a CPU, and its loop "
        "asks for an accelerator; use framework='torch' there"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"torchtitan": None}, "pip install torchtitan==0.3.0 triton pytest-nemoperf", id="missing"),
        pytest.param({"triton": None}, "half installed: torchtitan needs triton>=3.6", id="no-triton"),
        pytest.param({PLUGIN: None}, "runs a program of this plugin in its interpreter", id="no-plugin"),
        pytest.param({"torch": "2.13.0+cpu"}, "pp=2: torchtitan's pipelines need torch 2.14 or later", id="old-torch"),
    ],
)
def test_packages_that_are_not_there_are_named_with_the_command_that_mends_it(
    change: Mapping[str, str | None], words: str, versions: dict[str, str]
) -> None:
    for name, version in change.items():
        versions.pop(name)
        if version is not None:
            versions[name] = version

    assert words in str(TorchtitanFramework().unsupported(on_gpus(plan_of(layout=Layout(gpus=2, pp=2)))))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param(
            {"layout": Layout(gpus=2, dp_replicate=2, shard_optimizer=True)}, "shard_optimizer=True", id="zero"
        ),
        pytest.param({"layout": Layout(gpus=2, pp=2, pp_schedule="zero_bubble")}, "pp_schedule=zero_bubble", id="zb"),
        pytest.param(
            {"layout": Layout(gpus=2, pp=2, vp=2), "global_batch_size": 5, "micro_batch_size": 1},
            "don't make equal rounds of at least pp=2",
            id="rounds",
        ),
        pytest.param({"layout": Layout(gpus=2, cp=2, cp_comm="a2a")}, "cp_comm=a2a", id="a2a"),
        pytest.param(
            {"layout": Layout(gpus=4, tp=4)}, "tp=4 does not divide num_kv_heads=2", id="tp-above-key-value-heads"
        ),
        pytest.param(
            {"layout": Layout(gpus=4, tp=2, cp=2), "seq_len": 4 * 15}, "seq_len=60 is not a multiple of 8", id="length"
        ),
        pytest.param(
            {"layout": Layout(gpus=2, dp_replicate=2, ep=2), "model": MIXTURE, "precision": "bf16"},
            "ep=2 does not divide dp_shard*cp*tp=1",
            id="ep-over-replicas",
        ),
        pytest.param(
            {"layout": Layout(gpus=2, tp=2), "model": MIXTURE, "precision": "bf16"},
            "etp=1 at ep=1 and tp=2",
            id="etp",
        ),
        pytest.param(
            {"layout": Layout(gpus=4, tp=2, dp_shard=2, ep=2, etp=2), "model": MIXTURE, "precision": "bf16"},
            "etp=2 at ep=2 and tp=2",
            id="etp-with-ep",
        ),
        pytest.param({"has_varying_lengths": True}, "has_varying_lengths=True", id="lengths"),
        pytest.param(
            {"framework_options": {"training.seq_len": 8}}, "each run sets training.seq_len itself", id="an-option"
        ),
        pytest.param(
            {"framework_options": {"training.seq-len": 8}}, "each run sets training.seq-len itself", id="with-a-dash"
        ),
        pytest.param(
            {"framework_options": {"--compile.no-enable": True}}, "each run sets --compile.no-enable itself", id="no"
        ),
        pytest.param(
            {"framework_options": {"optimizer.lr": 0.1}}, "each run sets optimizer.lr itself", id="an-option-of-a-group"
        ),
        pytest.param({"model": MIXTURE}, "precision=fp32 with a mixture of experts", id="experts-in-fp32"),
    ],
)
def test_what_it_lacks_is_refused_by_name(changes: Any, words: str) -> None:
    model = replace(ROUND_MODEL, num_heads=8)

    assert words in problems_of(plan_of(**{"model": model, **changes}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"precision": Precision.MXFP8}, "precision=mxfp8 is transformer-engine's", id="precision"),
        pytest.param({"is_profiled": True}, "is_profiled=True", id="profiled"),
        pytest.param({"framework_config": "x.toml"}, "framework_config='x.toml'", id="file"),
        pytest.param({"log_format": "torchtitan"}, "log_format='torchtitan' is for commands", id="log"),
        pytest.param({"is_command_per_rank": True}, "is_command_per_rank=True is for commands", id="per-rank"),
        pytest.param({"env": {"RANK": "0"}}, "RANK='0' clashes with the launcher", id="rank"),
        pytest.param(
            {"turn": ABTurn(directory="/x", side="A", other="B", is_first=True, block_steps=1)},
            "a comparison in turns",
            id="turn",
        ),
    ],
)
def test_what_only_a_plan_says_is_refused_by_name(change: Any, words: str) -> None:
    assert words in problems_of(replace(plan_of(), **change))


def test_reinforcement_learning_is_refused() -> None:
    assert "workload=grpo with framework='torchtitan'" in problems_of(make_rl_plan())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"activation": "gelu"}, "activation=<Activation.GELU: 'gelu'>", id="activation"),
        pytest.param({"norm": "layernorm"}, "norm='layernorm'", id="norm"),
        pytest.param({"sliding_window": 8}, "sliding_window=8", id="window"),
        pytest.param({"qk_norm": "l2"}, "qk_norm='l2'", id="l2"),
        pytest.param(
            {"rope_scaling": RopeScaling(kind="linear", factor=2.0)}, "rope_scaling.kind='linear'", id="scaling"
        ),
        pytest.param(
            {"qk_norm": "rms", "rope_scaling": RopeScaling(kind="llama3", factor=8.0, original_context=64)},
            "rope_scaling.kind='llama3' with qk_norm",
            id="scaling-with-norms",
        ),
    ],
)
def test_parts_of_a_model_that_it_lacks_are_named(change: Any, words: str) -> None:
    model = replace(ROUND_MODEL, **change)

    assert f"model round has {words}, which torchtitan's" in problems_of(plan_of(model=model))


def test_tied_embeddings_do_not_go_with_pipelines() -> None:
    model = replace(ROUND_MODEL, tied_embeddings=True)

    assert "pp=2 with tied_embeddings=True" in problems_of(plan_of(model=model, layout=Layout(gpus=2, pp=2)))


def test_the_catalog_s_llama_qwen_and_mixtral_models_are_taken() -> None:
    taken = []
    for name, model in model_catalog().items():
        plan = replace(plan_of(model=ROUND_MODEL, precision="bf16"), model=model)
        if not problems_of(plan):
            taken.append(name)

    families = {name.partition("-")[0] for name in taken}
    assert families == {"llama2", "llama3", "llama3.1", "llama3.2", "llama", "qwen2.5", "qwen3", "mixtral"}
    assert len(taken) == 27


def test_its_event_files_are_the_output(tmp_path: Path) -> None:
    plan = plan_of(steps=4)
    framework = TorchtitanFramework()
    framework.command(plan, run_dir=tmp_path)
    steps = []
    for step in range(1, 7):
        values = {
            "time_metrics/end_to_end(s)": 0.5,
            "time_metrics/data_loading(%)": 10.0,
            "throughput(tps)": plan.tokens_per_step / 0.5,
            "loss_metrics/global_avg_loss": 7.0 - step / 8,
            "grad_norm": 1.5,
            "memory/max_active(GiB)": 0.25,
        }
        steps.append((step, float(step), values))
    write_events(tmp_path / "torchtitan" / "tb" / "20261130-0801", steps)

    records = framework.read_output(plan, run_dir=tmp_path).records

    assert [record.step_time_sec for record in records] == [0.5] * 6
    assert records[5].loss == pytest.approx(6.25)
    assert {record.tokens for record in records} == {plan.tokens_per_step}
    assert records[0].peak_memory_bytes == 2**28
    assert records[0].phases == pytest.approx({"data": 0.05, "other": 0.45})
