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
from pytest_nemoperf.frameworks.plans.megatron import unsupported_by_megatron
from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig, value_model
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import RunResult
from tests.builders import make_plan, make_recipe, make_records, make_rl

OWN = requirements.installed_versions("")[requirements.PLUGIN]
CORE = {"megatron-core": "0.16.1", "pytest-nemoperf": OWN}
WITH_TE = {**CORE, "transformer-engine": "2.20.2", "transformer-engine-torch": "2.20.2"}
NUMBERS = itertools.count()

REFUSED = {
    "llama4-scout-16e": "is_window_chunked=True",
    "llama4-maverick-128e": "is_window_chunked=True",
    "qwen3-next-80b-a3b": "layers of gated delta net",
    "deepseek-v2": r"moe.group_score='max': .* 6 // 3 = 2 best",
    "deepseek-v3": "mtp_num_layers=1",
    "gemma2-2b": "attention_softcap=50.0",
    "gemma2-9b": "attention_softcap=50.0",
    "gemma2-27b": "attention_softcap=50.0",
    "gemma3-1b": "embedding_scale=33.9",
    "gemma3-4b": "embedding_scale=50.5",
    "gemma3-12b": "embedding_scale=61.9",
    "gemma3-27b": "embedding_scale=73.3",
    "grok-1": "attention_softcap=30.0",
}


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


def short(value: object) -> str:
    """Return the id of a test's value."""
    return value.name if isinstance(value, ModelConfig) else str(value)


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


@pytest.mark.parametrize("name", sorted(model_catalog()))
def test_each_model_of_the_catalog_is_taken_or_refused_with_the_part_that_is_missing(name: str) -> None:
    model = find_model(name)
    words = REFUSED.get(name, "layers of Mamba-2" if model.mamba is not None else "")

    found = unsupported_by_megatron(model) or ""

    assert re.search(words, found)
    assert bool(words) == bool(found)


def changed_moe(name: str, **changes: Any) -> ModelConfig:
    model = find_model(name)
    assert model.moe is not None
    return replace(model, moe=replace(model.moe, **changes))


def changed_rope(name: str, **changes: Any) -> ModelConfig:
    model = find_model(name)
    assert model.rope_scaling is not None
    return replace(model, rope_scaling=replace(model.rope_scaling, **changes))


LLAMA = find_model("llama3-8b")
DEEPSEEK = replace(find_model("deepseek-v3"), mtp_num_layers=0)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (DEEPSEEK, ""),
        (replace(find_model("nemotron-h-8b"), hybrid_pattern="*-" * 26), "hybrid_pattern"),
        (replace(LLAMA, attention_gate=True), "attention_gate=True"),
        (replace(LLAMA, final_softcap=30.0), "final_softcap=30.0"),
        (replace(LLAMA, has_post_norms=True), "has_post_norms=True"),
        (replace(LLAMA, logit_scale=0.5), "logit_scale=0.5"),
        (replace(LLAMA, query_temperature=(0.1, 8192.0)), "query_temperature"),
        (replace(LLAMA, rope_local_theta=1e4), "rope_local_theta"),
        (value_model(LLAMA), "has_value_head=True"),
        (replace(LLAMA, out_bias=True), "qkv_bias=False, out_bias=True and mlp_bias=False"),
        (replace(LLAMA, out_bias=True, mlp_bias=True), "qkv_bias=False, out_bias=True and mlp_bias=True"),
        (replace(LLAMA, qk_norm="rms", norm="layernorm"), "qk_norm='rms' beside norm='layernorm'"),
        (replace(LLAMA, qk_norm="l2"), ""),
        (replace(LLAMA, qk_norm="l2", nope_interval=4), "qk_norm='l2' with nope_interval=4"),
        (replace(LLAMA, head_dim=44, rope_dim=30), "rope_dim=30 of head_dim=44"),
        (replace(DEEPSEEK, attention_sinks=True), "windows or sinks beside latent attention"),
        (replace(DEEPSEEK, norm="layernorm"), "norm='layernorm' beside latent attention"),
        (changed_rope("llama3.1-8b", low_freq=2.0), "low_freq=2, high_freq=4 and original_context=8192"),
        (changed_rope("llama3.1-8b", kind="linear"), ""),
        (changed_rope("kimi-k2", kind="linear"), "kind 'linear' beside latent attention"),
        (changed_rope("gpt-oss-20b", attention_factor=1.5), "attention_factor=1.5"),
        (changed_rope("gpt-oss-20b", softmax_mscale=1.0), "softmax_mscale=1.0 but no attention_factor"),
        (
            changed_rope("gpt-oss-20b", softmax_mscale=1.0, attention_factor=1.0),
            "softmax_mscale=1.0 outside latent attention",
        ),
        (changed_rope("kimi-k2", truncates=False), "truncates=False beside latent attention"),
        (changed_moe("mixtral-8x7b", router_bias=True), "moe.router_bias=True and mlp_bias=False"),
        (changed_moe("mixtral-8x7b", latent_size=1024), "moe.latent_size=1024"),
        (changed_moe("mixtral-8x7b", scales_input=True), "moe.scales_input=True with moe.topk=2"),
        (changed_moe("mixtral-8x7b", router="sigmoid", is_normalized=False), "moe.is_normalized=False and moe.topk=2"),
        (changed_moe("mixtral-8x7b", topk=1), "moe.is_normalized=True and moe.topk=1"),
        (changed_moe("mixtral-8x7b", topk=1, is_normalized=False), ""),
        (changed_moe("mixtral-8x7b", has_score_correction=True), "moe.has_score_correction=True"),
    ],
    ids=short,
)
def test_parts_of_models_are_taken_or_refused_by_name(model: ModelConfig, words: str) -> None:
    found = unsupported_by_megatron(model) or ""

    assert re.search(words, found)
    assert bool(words) == bool(found)
