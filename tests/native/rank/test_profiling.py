"""Profiles of a rank's steps."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.autograd import DeviceType  # type: ignore[attr-defined]  # torch leaves it out of __all__
from torch.autograd.profiler_util import FunctionEvent

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.rank.profiling import _STEP_RANGE, _UNNAMED_KERNELS, _covered_usec, _summarize
from pytest_nemoperf.records.profile import OUTSIDE, PROFILE_FILE, Operator, Profile
from tests.native.engine import MODEL, Engine, plan_of

PLAN = replace(
    plan_of(Layout(gpus=1), global_batch_size=2), warmup_steps=1, steps=2, is_profiled=True, inject_pct=100.0
)


@pytest.fixture(scope="module")
def run_dir(engine: Engine) -> Path:
    return engine.launch(PLAN)


@pytest.fixture
def profile(run_dir: Path) -> Profile:
    return from_json(Profile, (run_dir / PROFILE_FILE).read_bytes(), subject="profile")


def test_a_profiled_run_leaves_its_operators_and_a_trace_of_them(run_dir: Path, profile: Profile) -> None:
    trace = json.loads(gzip.decompress((run_dir / "trace-rank0.json.gz").read_bytes()))

    traced = [event["name"] for event in trace["traceEvents"] if event.get("cat") == "cpu_op"]
    assert (profile.case, profile.device, profile.num_steps, profile.num_ranks) == (PLAN.case, "cpu", 2, 1)
    assert profile.operators["aten::mm"].calls_per_step * profile.num_steps == traced.count("aten::mm")


def test_every_product_of_every_micro_batch_is_counted(profile: Profile) -> None:
    num_products = 4 * MODEL.num_layers + 1  # qkv, output, gate and up, down; the head
    passes = 3  # forward, and backward for inputs and for weights
    assert profile.operators["aten::mm"].calls_per_step == PLAN.grad_accum_steps * passes * num_products


def test_a_profiled_run_is_complete_like_any_other(run_dir: Path) -> None:
    assert len(TorchFramework().read_output(PLAN, run_dir=run_dir).records) == PLAN.total_steps


def test_operators_and_the_time_outside_them_are_the_step(profile: Profile) -> None:
    outside = profile.operators[OUTSIDE["cpu"]]
    total = math.fsum(operator.self_sec_per_step for operator in profile.operators.values())

    assert total == pytest.approx(profile.step_time_sec, rel=1e-2)
    assert outside.self_sec_per_step > 0.4 * profile.step_time_sec  # the injected sleep
    assert outside.calls_per_step == 0


@pytest.mark.parametrize(
    ("spans", "covered"),
    [([], 0.0), ([(1, 3)], 2.0), ([(1, 5), (2, 3)], 4.0), ([(4, 6), (1, 5)], 5.0), ([(1, 2), (5, 6)], 2.0)],
    ids=["none", "one", "nested", "overlapping", "apart"],
)
def test_time_covered_twice_counts_once(spans: list[tuple[float, float]], covered: float) -> None:
    assert _covered_usec(spans) == covered


IDS = count(1)


def event(name: str, start: float, end: float, *, kernels: Sequence[tuple[str, float]] = (), **facts: Any) -> Any:
    """Return a stand-in for an event of torch.profiler; times in microseconds."""
    values = {
        "id": next(IDS),
        "device_type": DeviceType.CPU,
        "is_user_annotation": False,
        "is_async": False,
        "self_cpu_time_total": end - start,
    }
    launched = [SimpleNamespace(name=kernel, duration=duration) for kernel, duration in kernels]
    return SimpleNamespace(
        name=name, time_range=SimpleNamespace(start=start, end=end), kernels=launched, **{**values, **facts}
    )


def test_on_cuda_operators_have_the_time_of_their_kernels_and_the_rest_of_the_step_is_idle() -> None:
    on_device: Any = {"device_type": DeviceType.CUDA}
    events = [
        event(_STEP_RANGE, 0, 100, kernels=[(_STEP_RANGE, 90)], is_user_annotation=True),
        event(_STEP_RANGE, 5, 95, is_user_annotation=True, **on_device),
        event("FSDP::pre_forward (layers.3)", 1, 4, kernels=[("FSDP::pre_forward (layers.3)", 30)]),
        event("aten::mm", 2, 3, kernels=[("gemm", 40)]),
        event("gemm", 10, 50, **on_device),
        event("cudaLaunchKernel", 2, 3),
        event("by_hand", 40, 60, **on_device),
        event("c10d::barrier", 101, 102, kernels=[("barrier", 5)]),
        event("barrier", 103, 108, **on_device),
    ]

    seen = _summarize(events, device_type="cuda")

    assert seen.step_time_sec == 100e-6
    assert seen.operators == {
        "aten::mm": Operator(calls_per_step=1, self_sec_per_step=40e-6),
        _UNNAMED_KERNELS: Operator(calls_per_step=0, self_sec_per_step=20e-6),
        OUTSIDE["cuda"]: Operator(calls_per_step=0, self_sec_per_step=50e-6),
    }


def test_on_cpu_a_collective_on_another_thread_counts_and_modules_are_taken_together() -> None:
    events = [
        event("ProfilerStep*", 0, 220),
        event(_STEP_RANGE, 0, 100),
        event("FSDP::pre_forward (layers.0)", 0, 10),
        event("FSDP::pre_forward (layers.1)", 20, 30),
        event("gloo:all_reduce", 50, 90, is_async=True, self_cpu_time_total=0),
        event(_STEP_RANGE, 120, 220),
    ]

    seen = _summarize(events, device_type="cpu")

    assert seen.step_time_sec == 100e-6
    assert seen.operators == {
        "FSDP::pre_forward": Operator(calls_per_step=1, self_sec_per_step=10e-6),
        "gloo:all_reduce": Operator(calls_per_step=0.5, self_sec_per_step=20e-6),
        OUTSIDE["cpu"]: Operator(calls_per_step=0, self_sec_per_step=70e-6),
    }


TRACE = Path(__file__).parents[2] / "data" / "mi250_trace.json"
TRACED_STEP = "ProfilerStep#1"
REMARK = "Command Buffer Full"


def recorded_events() -> list[FunctionEvent]:
    """Return the events of a GPU's trace as torch makes them: operators list the kernels that they launched."""
    events = []
    launchers: dict[int, FunctionEvent] = {}
    for entry in json.loads(TRACE.read_text(encoding="utf-8"))["events"]:
        is_device = entry["cat"] in ("kernel", "gpu_memcpy", "gpu_user_annotation")
        is_operator = entry["cat"] in ("cpu_op", "user_annotation")
        made = FunctionEvent(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            id=entry["id"] if is_operator else entry["correlation"] or 0,
            name=_STEP_RANGE if entry["name"] == TRACED_STEP else entry["name"],
            thread=entry["thread"],
            start_us=entry["ts"],
            end_us=entry["ts"] + entry["dur"],
            device_type=DeviceType.CUDA if is_device else DeviceType.CPU,
            is_user_annotation="annotation" in entry["cat"],
        )
        events.append(made)
        if is_operator:
            launchers[entry["id"]] = made
        elif is_device:
            launchers[entry["id"]].append_kernel(made.name, 0, entry["dur"])  # type: ignore[no-untyped-call]  # as above
    return events


def with_remarks(events: Sequence[FunctionEvent]) -> list[FunctionEvent]:
    """Return the events with a remark inside each operator that launches: of its id and, in torch, of its kernels."""
    remarked = []
    for launching in events:
        remarked.append(launching)
        if launching.kernels and not launching.is_user_annotation:
            start = launching.time_range.start + 1
            remark = FunctionEvent(  # type: ignore[no-untyped-call]  # as above
                id=launching.id, name=REMARK, thread=launching.thread, start_us=start, end_us=start + 0.5
            )
            for kernel in launching.kernels:
                remark.append_kernel(kernel.name, kernel.device, kernel.duration)  # type: ignore[no-untyped-call]  # as above
            remarked.append(remark)
    return remarked


def test_rows_of_a_recorded_step_on_a_gpu_are_the_step() -> None:
    seen = _summarize(recorded_events(), device_type="cuda")

    total = math.fsum(operator.self_sec_per_step for operator in seen.operators.values())
    assert total == pytest.approx(seen.step_time_sec, rel=1e-3)
    assert seen.step_time_sec == pytest.approx(9.288e-3)
    assert seen.operators["aten::addmm"] == Operator(calls_per_step=1, self_sec_per_step=24.48e-6)
    assert seen.operators["aten::mm"] == Operator(calls_per_step=1, self_sec_per_step=12.64e-6)
    assert seen.operators["aten::copy_"] == Operator(calls_per_step=2, self_sec_per_step=38.16e-6)


def test_remarks_of_the_profiler_are_no_operators_and_take_nothing_from_them() -> None:
    events = recorded_events()

    remarked = with_remarks(events)

    assert sum(event.name == REMARK for event in remarked) > 10
    assert _summarize(remarked, device_type="cuda") == _summarize(events, device_type="cuda")
    assert _summarize(list(reversed(remarked)), device_type="cuda") == _summarize(events, device_type="cuda")
