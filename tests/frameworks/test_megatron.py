from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks import requirements
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.megatron import MegatronFramework
from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import RunResult
from tests.builders import make_plan, make_recipe, make_records, make_rl

OWN = requirements.installed_versions("")[requirements.PLUGIN]
CORE = {"megatron-core": "0.16.1", "pytest-nemoperf": OWN}
WITH_TE = {**CORE, "transformer-engine": "2.20.2", "transformer-engine-torch": "2.20.2"}
NUMBERS = itertools.count()


def gpu_plan(*, system: str = "h100", gpus: int = 8, degrees: Mapping[str, Any] | None = None, **changes: Any) -> Plan:
    """Return a plan of 8 GPUs, data-parallel unless degrees say otherwise, in an interpreter without a name so far."""
    layout = Layout(gpus=gpus, **(degrees or {"dp_replicate": gpus}))
    values = {"model": "llama3-8b", "global_batch_size": 16, "precision": "bf16", "framework": "megatron", **changes}
    plan = resolve(make_recipe(layouts={system: layout}, **values), system=find_system(system))
    return replace(plan, python=f"/frameworks/{next(NUMBERS)}/python")


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that every interpreter has; with transformer-engine until a test changes them."""
    found = dict(WITH_TE)
    monkeypatch.setattr(requirements, "versions_in", versions_of(found))
    return found


def versions_of(found: Mapping[str, str]) -> Callable[..., dict[str, str]]:
    def versions_in(python: str, *, env: Mapping[str, str]) -> dict[str, str]:
        return dict(found)

    return versions_in


def reason(plan: Plan) -> str:
    return MegatronFramework().unsupported(plan) or ""


def test_each_rank_is_the_programs_own_process_in_the_frameworks_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.frameworks.launch.versions_in", versions_of(CORE))
    plan = gpu_plan(degrees={"tp": 8}, env={"NCCL_DEBUG": "WARN"})

    command = builtin_frameworks()["megatron"].command(plan, run_dir=tmp_path)

    assert command.argv == (plan.python, "-m", "pytest_nemoperf.trainers.megatron_core.entry")
    assert command.num_processes == 8
    assert command.is_rank
    assert command.entrypoint is None  # a warm server is of pytest's own interpreter
    assert command.env == {
        "NCCL_DEBUG": "WARN",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "NEMOPERF_RUN_DIR": str(tmp_path),
    }


def test_the_order_of_kernels_is_left_alone_where_no_messages_overlap_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.frameworks.launch.versions_in", versions_of({}))

    command = MegatronFramework().command(gpu_plan(), run_dir=tmp_path)

    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in command.env


def test_versions_of_the_interpreter_join_what_the_ranks_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_nemoperf.frameworks.launch.versions_in", versions_of(CORE))
    plan = gpu_plan()
    result = RunResult(num_ranks=8, num_steps=plan.total_steps, device_name="GPU", environment={"layer_spec": "local"})
    (tmp_path / "result.json").write_text(to_json(result))
    (tmp_path / "steps.jsonl").write_text("".join(map(to_json_line, make_records(plan))))
    framework = MegatronFramework()

    framework.command(plan, run_dir=tmp_path)
    output = framework.read_output(plan, run_dir=tmp_path)

    assert output.environment["megatron-core"] == "0.16.1"
    assert output.environment["layer_spec"] == "local"
    assert len(output.records) == plan.total_steps


def test_a_run_without_its_result_is_incomplete(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"left no .*result\.json"):
        MegatronFramework().read_output(gpu_plan(), run_dir=tmp_path)


def test_a_system_without_gpus_is_refused() -> None:
    plan = make_plan(framework="megatron", layouts={"cpu": Layout(gpus=1)})

    assert "runs on GPUs only, and system=cpu has none" in reason(plan)


def test_a_plan_that_it_can_not_run_is_refused_without_the_package_too(versions: dict[str, str]) -> None:
    versions.clear()

    assert "dp_shard=8" in reason(gpu_plan(degrees={"dp_shard": 8}))


def test_a_missing_package_is_named_with_the_command_that_installs_it(versions: dict[str, str]) -> None:
    del versions["megatron-core"]

    assert re.search("needs megatron-core, which is not installed in .*pip install megatron-core", reason(gpu_plan()))


def test_the_meta_package_of_transformer_engine_is_named_with_the_command_that_mends_it(
    versions: dict[str, str],
) -> None:
    del versions["transformer-engine-torch"]
    plan = gpu_plan()

    assert re.search(
        rf"half installed: transformer-engine 2\.20\.2 is the meta package alone.*{plan.python} -m pip install "
        r"--no-build-isolation 'transformer-engine\[pytorch\]==2\.20\.2'",
        reason(plan),
    )


def test_a_containers_own_build_of_transformer_engine_is_whole(versions: dict[str, str]) -> None:
    del versions["transformer-engine-torch"]
    versions["transformer-engine"] = "2.20.0+1a2b3c4"

    assert reason(gpu_plan(degrees={"tp": 8})) == ""


@pytest.mark.parametrize("version", ["0.16.1", "0.19.2", "0.20.0"])
def test_a_version_that_was_not_tested_is_no_reason_to_refuse(versions: dict[str, str], version: str) -> None:
    versions["megatron-core"] = version

    assert reason(gpu_plan()) == ""


@pytest.mark.parametrize(
    "degrees",
    [
        {"dp_replicate": 8},
        {"dp_replicate": 8, "shard_optimizer": True},
        {"tp": 8},
        {"pp": 8},
        {"pp": 2, "vp": 2, "dp_replicate": 4},
        {"cp": 2, "tp": 2, "dp_replicate": 2, "shard_optimizer": True},
        {"cp": 8, "cp_comm": "a2a"},
    ],
    ids=str,
)
def test_every_axis_but_fsdp_is_taken(versions: dict[str, str], degrees: dict[str, Any]) -> None:
    assert reason(gpu_plan(degrees=degrees)) == ""


@pytest.mark.parametrize(
    ("degrees", "changes", "words"),
    [
        (
            {"dp_shard": 4, "dp_replicate": 2},
            {},
            "dp_shard=4: .*use dp_replicate=8 with shard_optimizer=True",
        ),
        ({"pp": 8, "pp_schedule": "zero_bubble"}, {}, "pp_schedule=zero_bubble.*use pp_schedule=1f1b"),
        ({"pp": 8, "vp": 2}, {"global_batch_size": 12}, "vp=2: 12 micro-batches a step .* no multiple of pp=8"),
        ({"pp": 8, "vp": 2}, {"global_batch_size": 4}, "vp=2: 4 micro-batches a step .* no multiple of pp=8"),
        ({"cp": 8}, {"precision": "fp32"}, "cp=8 with precision=fp32: .*use precision=bf16, or cp=1"),
        ({"cp": 8}, {"model": "gpt-oss-20b"}, "cp_comm=all_gather with attention_sinks=True: .*use cp_comm=a2a"),
        ({"cp": 8, "cp_comm": "a2a"}, {"model": "gpt-oss-20b"}, ""),
        ({"tp": 8}, {"model": "gpt3-175b", "model_name": "odd"}, ""),
        ({"tp": 8}, {"model": "qwen2.5-72b"}, ""),
        ({"tp": 8}, {"model": "qwen3-30b-a3b"}, "tp=8 does not divide num_kv_heads=4"),
        (
            {"tp": 4, "dp_replicate": 2, "sequence_parallel": False},
            {"model": "qwen3-30b-a3b"},
            "tp=4 without sequence parallelism, which Megatron-Core needs for experts",
        ),
        (
            {"tp": 4, "dp_replicate": 2, "sequence_parallel": False},
            {"model": replace(find_model("deepseek-v2-lite"), moe=None)},
            "does not sum the gradient of the rotated key",
        ),
        ({"etp": 4, "tp": 4, "dp_replicate": 2}, {"model": "gpt-oss-20b"}, "etp=4 with biases of experts"),
        (
            {"tp": 8},
            {"model": replace(find_model("llama3-8b"), vocab_size=50257)},
            "tp=8 does not divide vocab_size=50257",
        ),
        (None, {"is_compiled": True}, "is_compiled=True"),
        (None, {"has_varying_lengths": True}, "has_varying_lengths=True"),
        (None, {"log_format": "megatron"}, "framework='megatron_lm' for Megatron-LM's scripts"),
        (None, {"is_command_per_rank": True}, "is_command_per_rank"),
        (None, {"env": {"RANK": "0"}}, "RANK='0' clashes with the launcher"),
        (None, {"precision": "mxfp8"}, "precision=mxfp8 needs compute capability 10.0, DGX-H100 has 9.0"),
        (None, {"precision": "fp8_ds", "recompute": "full"}, "precision=fp8_ds with recompute=full"),
        (None, {"precision": "fp8_ds"}, ""),
        (None, {"recompute": "full"}, ""),
        (None, {"recompute": "selective"}, ""),
        (None, {"model": "mixtral-8x7b", "is_router_balanced": True}, ""),
    ],
    ids=str,
)
def test_settings_are_taken_or_refused_by_name_and_value(
    versions: dict[str, str], degrees: dict[str, Any] | None, changes: dict[str, Any], words: str
) -> None:
    found = reason(gpu_plan(degrees=degrees, **changes))

    assert re.search(words, found)
    assert bool(words) == bool(found)


def test_reinforcement_learning_is_refused_with_the_frameworks_that_have_it(versions: dict[str, str]) -> None:
    plan = replace(gpu_plan(), rl=make_rl())

    assert "rl=RL(...) with framework='megatron', which pre-trains; use framework='torch'" in reason(plan)


@pytest.mark.parametrize(
    ("degrees", "changes", "what"),
    [
        ({"tp": 8}, {}, "sequence_parallel=True at tp=8 needs .*or use sequence_parallel=False"),
        ({"cp": 8}, {}, "cp=8 needs .*or use cp=1"),
        (None, {"precision": "fp8_cs"}, "precision=fp8_cs needs .*or use precision=bf16"),
        (None, {"model": "moonlight-16b-a3b"}, "latent attention of model moonlight-16b-a3b needs"),
        (None, {"model": "gpt-oss-20b"}, "experts with biases, as of model gpt-oss-20b, needs"),
    ],
    ids=str,
)
def test_transformer_engine_is_asked_for_only_where_its_layers_are_needed(
    versions: dict[str, str], degrees: dict[str, Any] | None, changes: dict[str, Any], what: str
) -> None:
    assert reason(gpu_plan(degrees=degrees, **changes)) == ""
    del versions["transformer-engine"], versions["transformer-engine-torch"]

    assert re.search(what, reason(gpu_plan(degrees=degrees, **changes)))


def test_without_transformer_engine_the_own_layers_take_the_rest(versions: dict[str, str]) -> None:
    del versions["transformer-engine"], versions["transformer-engine-torch"]

    assert reason(gpu_plan(degrees={"tp": 4, "sequence_parallel": False, "pp": 2})) == ""
