"""Megatron-Core, the real package, beside the native engine: the same losses and gradient norms from a plan."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.frameworks.megatron import MegatronFramework
from pytest_nemoperf.frameworks.plans.megatron import unsupported_by_megatron
from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine.identity import detect_devices
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PRETRAIN_PHASES, RunOutput
from tests.builders import make_plan, make_recipe
from tests.real_frameworks.build import ROOT
from tests.real_frameworks.on_cpu import MegatronOnCPU
from tests.real_frameworks.runs import interpreter, native_output, run_plan

pytestmark = [pytest.mark.frameworks, pytest.mark.ranks]

FRAMEWORK = MegatronOnCPU()
ONE = Layout(gpus=1)
RELATIVE = 1e-5
BF16_RELATIVE = 5e-3
"""Weights of 8 bits of precision round by 4e-3, and the native engine keeps its own in fp32."""
DENSE = "llama3.1-8b-twin"
EXPERTS = "qwen3-30b-a3b-twin"
GROUPS = find_model("deepseek-v3-twin")
assert GROUPS.moe is not None

Native = Callable[..., RunOutput]


def plan_of(layout: Layout, **changes: Any) -> Plan:
    values: dict[str, Any] = {"steps": 4, "timeout_sec": 300.0, **changes}
    return make_plan(framework=FRAMEWORK.name, python=interpreter("megatron"), layouts={"cpu": layout}, **values)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    """Output of the native engine in one process, run once for each model and settings."""
    made: dict[str, RunOutput] = {}

    def output(**changes: Any) -> RunOutput:
        key = repr(sorted(changes.items()))
        if key not in made:
            made[key] = native_output(plan_of(ONE, **changes), run_dir=tmp_path_factory.mktemp("native") / "run")
        return made[key]

    return output


def check_same(theirs: RunOutput, ours: RunOutput, *, relative: float = RELATIVE) -> None:
    """Check that both trained the same model on the same tokens, and that both count alike."""
    assert len(theirs.records) == len(ours.records) == 6
    for their, our in zip(theirs.records, ours.records, strict=True):
        assert their.loss == pytest.approx(our.loss, rel=relative)
        assert their.grad_norm == pytest.approx(our.grad_norm, rel=relative)
        assert (their.tokens, their.flops) == (our.tokens, our.flops)


@pytest.mark.parametrize(
    ("layout", "model"),
    [
        pytest.param(ONE, DENSE, id="one process"),
        pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), DENSE, id="tp2"),
        pytest.param(Layout(gpus=2, pp=2), DENSE, id="pp2"),
        pytest.param(Layout(gpus=2, pp=2, vp=2), DENSE, id="pp2 vp2"),
        pytest.param(Layout(gpus=2, dp_replicate=2), DENSE, id="ddp2"),
        pytest.param(Layout(gpus=2, dp_replicate=2, shard_optimizer=True), DENSE, id="zero1ddp2"),
        pytest.param(Layout(gpus=4, tp=2, pp=2, sequence_parallel=False), DENSE, id="tp2 pp2"),
        pytest.param(ONE, EXPERTS, id="experts in one process"),
        pytest.param(Layout(gpus=2, dp_replicate=2, ep=2), EXPERTS, id="ep2"),
        pytest.param(Layout(gpus=2, dp_replicate=2, ep=2, shard_optimizer=True), EXPERTS, id="zero1 ep2"),
    ],
)
def test_every_layout_trains_as_the_native_engine_in_one_process(
    layout: Layout, model: str, native: Native, tmp_path: Path
) -> None:
    plan = plan_of(layout, model=model)
    assert FRAMEWORK.unsupported(plan) is None

    output = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "run")

    check_same(output, native(model=model))
    assert output.environment["megatron-core"] == "0.16.1"
    assert output.environment["layer_spec"] == "local"
    phases = set(output.records[-1].phases)
    assert phases == set(PRETRAIN_PHASES) - (set() if layout.pp > 1 else {"pipeline_wait"})


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        pytest.param("gpt3-5b-twin", ONE, id="learned positions, layernorm, biases, gelu, tied"),
        pytest.param("nemotron4-15b-twin", ONE, id="squared relu, partly rotated heads"),
        pytest.param("qwen2.5-1.5b-twin", Layout(gpus=2, pp=2), id="tied head on another stage, query biases"),
        pytest.param(replace(find_model(DENSE), num_layers=5), Layout(gpus=2, pp=2), id="uneven stages"),
        pytest.param("mixtral-8x7b-twin", ONE, id="two experts of a token"),
        pytest.param(
            replace(find_model("gpt-oss-20b-twin"), moe=None), ONE, id="sinks, windows, clamped swiglu, yarn, biases"
        ),
        pytest.param(
            replace(
                find_model("llama3-8b-twin"),
                qk_norm="l2",
                query_scale=0.2,
                sliding_window=8,
                full_attention_interval=2,
            ),
            ONE,
            id="l2 norms, scaled queries, windows of some layers",
        ),
        pytest.param(replace(find_model("llama3-8b-twin"), nope_interval=2), ONE, id="layers without positions"),
    ],
)
def test_parts_of_models_are_those_of_the_native_engine(
    model: str | ModelConfig, layout: Layout, native: Native, tmp_path: Path
) -> None:
    plan = plan_of(layout, model=model)
    assert FRAMEWORK.unsupported(plan) is None

    output = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "run")

    check_same(output, native(model=model))


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("kimi-k2-twin", id="latent queries, sigmoid router with corrections, shared expert, yarn"),
        pytest.param("deepseek-v2-lite-twin", id="no latent queries, softmax of all scores"),
        pytest.param(
            replace(GROUPS, mtp_num_layers=0, moe=replace(GROUPS.moe, topk=4, topk_groups=2)), id="groups of experts"
        ),
    ],
)
def test_latent_attention_has_the_native_engines_weights(
    model: str | ModelConfig, native: Native, tmp_path: Path
) -> None:
    plan = plan_of(ONE, model=model)
    # Only transformer-engine's attention takes it, and the shim lets Megatron-Core's own do.
    assert "latent attention of model" in (FRAMEWORK.unsupported(plan) or "")

    output = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "run")

    check_same(output, native(model=model))


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputation_changes_no_number(recompute: str, native: Native, tmp_path: Path) -> None:
    plan = plan_of(ONE, model=DENSE, recompute=recompute)
    assert FRAMEWORK.unsupported(plan) is None

    output = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "run")

    check_same(output, native(model=DENSE))


def test_bf16_has_masters_in_fp32(native: Native, tmp_path: Path) -> None:
    plan = plan_of(Layout(gpus=2, dp_replicate=2, shard_optimizer=True), model=DENSE, precision="bf16")
    assert FRAMEWORK.unsupported(plan) is None

    output = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "run")

    check_same(output, native(model=DENSE, precision="bf16"), relative=BF16_RELATIVE)


def test_another_seed_does_not_agree(native: Native, tmp_path: Path) -> None:
    output = run_plan(plan_of(ONE, model=DENSE, seed=1), framework=FRAMEWORK, run_dir=tmp_path / "run")

    with pytest.raises(AssertionError):
        check_same(output, native(model=DENSE))


def probe(plans: list[Plan]) -> list[dict[str, Any]]:
    """Return what plans become; fail the test if Megatron-Core refuses one."""
    result = subprocess.run(
        [interpreter("megatron"), "-m", "tests.real_frameworks.megatron_probe"],
        input="\n".join(to_json_line(plan).strip() for plan in plans),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    if result.returncode:
        pytest.fail(result.stderr[-4000:], pytrace=False)
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def gpu_plan(model: str | ModelConfig, *, system: str = "h100", degrees: dict[str, Any], **changes: Any) -> Plan:
    layout = Layout(gpus=8, **degrees)
    values = {"global_batch_size": 16, "precision": "bf16", "framework": "megatron", **changes}
    return resolve(make_recipe(model=model, layouts={system: layout}, **values), system=find_system(system))


def test_megatron_core_accepts_the_configuration_of_every_model_that_is_taken() -> None:
    models = [model for model in model_catalog().values() if unsupported_by_megatron(model) is None]
    plans = [gpu_plan(model, degrees={"dp_replicate": 8}) for model in models]

    told = dict(zip([model.name for model in models], probe(plans), strict=True))

    assert told["llama3-8b"]["activation"] == "silu"
    assert told["llama3-8b"]["is_fused"]
    assert told["gpt3-175b"]["is_fused"]
    assert not told["nemotron4-15b"]["is_fused"]
    assert (told["gpt-oss-20b"]["activation"], told["gpt-oss-20b"]["is_fused"]) == ("quick_gelu", True)


def test_numbers_overlaps_and_stages_of_gpus_are_as_planned() -> None:
    latent = replace(find_model("moonlight-16b-a3b"), moe=None)
    data = {"dp_replicate": 8}
    plans = [
        gpu_plan(latent, degrees=data),
        gpu_plan(latent, degrees=data, precision="fp8_ds"),
        gpu_plan(latent, degrees=data, precision="fp8_cs"),
        gpu_plan(latent, degrees=data, precision="fp8_sc"),
        gpu_plan(latent, degrees=data, precision="mxfp8", system="b200"),
        gpu_plan(latent, degrees=data, precision="nvfp4", system="b200"),
        gpu_plan(latent, degrees={**data, "shard_optimizer": True}),
        gpu_plan("llama3.1-405b", degrees={"pp": 8, "vp": 2}),
    ]

    told = probe(plans)

    assert [each["formats"] for each in told[:6]] == [
        ["torch.bfloat16", None, None, None],
        ["torch.bfloat16", "hybrid", "delayed", None],
        ["torch.bfloat16", "hybrid", "tensorwise", None],
        ["torch.bfloat16", "e4m3", "blockwise", None],
        ["torch.bfloat16", "e4m3", "mxfp8", None],
        ["torch.bfloat16", None, None, "e2m1"],
    ]
    assert all(each["has_bf16_optimizer"] for each in told)
    assert [told[0]["overlaps"], told[6]["overlaps"], told[7]["overlaps"]] == [
        [True, False, False],
        [True, True, False],
        [True, False, True],
    ]
    assert [told[0]["pieces"], told[7]["pieces"]] == [False, True]


def test_a_slowed_and_profiled_run_has_its_delay_and_its_profile(tmp_path: Path) -> None:
    plan = replace(plan_of(ONE, model=EXPERTS, is_router_balanced=True), inject_pct=100.0, is_profiled=True)
    assert FRAMEWORK.unsupported(plan) is None

    output = run_plan(plan, framework=FRAMEWORK, run_dir=tmp_path / "run")

    phases = output.records[-1].phases
    assert phases["other"] > 0.9 * (sum(phases.values()) - phases["other"])  # slept as long as it worked
    assert list((tmp_path / "run").glob("*profile*"))


@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({"tp": 2}, id="sequence parallelism"),
        pytest.param({"cp": 2}, id="context parallelism"),
        pytest.param({"dp_replicate": 2, "shard_optimizer": True}, id="overlapped distributed optimizer"),
        pytest.param({"pp": 2, "vp": 2}, id="overlapped messages"),
    ],
)
def test_on_gpus_layers_of_transformer_engine_train_as_the_native_engine(
    degrees: dict[str, Any], tmp_path: Path
) -> None:
    framework = MegatronFramework()
    layout = Layout(gpus=2, **degrees)
    recipe = make_recipe(
        model=DENSE, layouts={"h100": layout}, framework="megatron", precision="bf16", python=interpreter("megatron")
    )
    plan = resolve(recipe, system=find_system("h100"))
    num_gpus = len(detect_devices().names)
    problem = framework.unsupported(plan)
    if problem:
        pytest.skip(problem)
    if num_gpus < layout.gpus:
        pytest.skip(f"needs {layout.gpus} GPUs with transformer-engine, and this machine has {num_gpus}")

    output = run_plan(plan, framework=framework, run_dir=tmp_path / "megatron")

    ours = native_output(replace(plan, layout=replace(layout, shard_optimizer=False)), run_dir=tmp_path / "native")
    check_same(output, ours, relative=BF16_RELATIVE)
