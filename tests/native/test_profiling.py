"""What a rank's profile says of its steps."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.native.profiling import covered_usec
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.profiles import OUTSIDE, PROFILE_FILE, Profile
from pytest_nemoperf.records import from_json
from tests.native.engine import MODEL, Engine, plan_of

PLAN = replace(plan_of(Layout(gpus=1), global_batch_size=2), warmup_steps=1, steps=2, is_profiled=True, inject_pct=100.0)


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
    assert covered_usec(spans) == covered
