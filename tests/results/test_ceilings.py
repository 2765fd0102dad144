"""Ceilings of a machine from stored baselines, and cases beside them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.results.ceilings import (
    Ceiling,
    OfProducts,
    at_ceiling,
    ceiling_of,
    highest,
    rate_text,
    share_of_products,
)
from tests.builders import make_baseline, make_plan, make_rl_plan, make_run

ONE_THREAD = {"cores": 2}  # for each of two ranks


def make_call(workload: dict[str, Any], **metrics: tuple[float, ...]) -> Baseline:
    runs = []
    for values in zip(*metrics.values(), strict=True):
        figures = dict(zip(metrics, values, strict=True))
        runs.append(Run(metrics={"time_per_call_sec": 0.1, **figures}, num_steps=5, step_time_mad_pct=0.1))
    return make_baseline(case="bench-a", workload=workload, runs=tuple(runs))


def make_ceiling(**changes: Any) -> Ceiling:
    values: dict[str, Any] = {
        "kernel": "gemm",
        "dtype": "fp32",
        "shape": "m=8",
        "num_gpus": 1,
        "threads": 1,
        "metric": "call_tflops_per_sec",
        "rate": 2.0,
        "num_runs": 1,
        "case": "bench-a",
        "source": "baselines/cpu/bench-a.json",
        "date": "2026-11-27T09:46:26+00:00",
    }
    return Ceiling(**{**values, **changes})


def test_a_kernel_is_a_ceiling_with_rate_spread_and_origin() -> None:
    workload = {"workload": "benchmark", "kernel": "gemm", "dtype": "bf16", "shape": {"m": 8, "n": 4}, "threads": 1}
    baseline = make_call(workload, call_tflops_per_sec=(700.0, 714.0, 707.0))

    ceiling = ceiling_of(baseline, source="baselines/h100/bench-a.json")

    assert ceiling is not None
    assert (ceiling.kernel, ceiling.dtype, ceiling.shape, ceiling.threads) == ("gemm", "bf16", "m=8 n=4", 1)
    assert ceiling.rate == pytest.approx(707.0, rel=1e-3)
    assert ceiling.spread_pct == pytest.approx(100 * 14 / 707)
    assert (ceiling.num_runs, ceiling.source, ceiling.date) == (
        3,
        "baselines/h100/bench-a.json",
        baseline.provenance.date,
    )
    assert rate_text(ceiling) == "707 TFLOP/s"


def test_a_collective_is_a_ceiling_by_its_bus_bandwidth() -> None:
    workload = {
        "workload": "collective", "collective": "all_reduce", "num_gpus": 8, "size_bytes": 2**29, "dtype": "bf16",
    }  # fmt: skip
    baseline = make_call(workload, algorithm_gib_per_sec=(250.0,), bus_gib_per_sec=(437.5,))

    ceiling = ceiling_of(baseline, source="file")

    assert ceiling is not None
    assert (ceiling.kernel, ceiling.num_gpus, ceiling.shape) == ("all_reduce", 8, "512 MiB over 8 ranks")
    assert (ceiling.metric, ceiling.rate, ceiling.spread_pct) == ("bus_gib_per_sec", 437.5, None)


def test_a_benchmark_stored_without_its_kernel_and_a_training_case_are_none() -> None:
    old = make_call({"workload": "benchmark", "test": "t.py::t"})
    unnamed = make_call({"workload": "benchmark", "test": "t.py::t"}, call_gib_per_sec=(3.0,))

    assert ceiling_of(old, source="file") is None
    assert ceiling_of(unnamed, source="file") is None
    assert ceiling_of(make_baseline(), source="file") is None


def test_the_highest_rate_of_a_kernel_counts_and_only_with_equal_numbers_and_threads() -> None:
    slow, fast = make_ceiling(rate=1.0), make_ceiling(rate=3.0)
    others = [
        make_ceiling(rate=9.0, dtype="bf16"),
        make_ceiling(rate=9.0, threads=2),
        make_ceiling(kernel="copy", rate=9),
    ]

    assert highest([slow, fast, *others], kernels=("gemm",), dtype="fp32", threads=1) is fast
    assert highest(others, kernels=("gemm",), dtype="fp32", threads=1) is None


def test_a_step_is_at_the_ceiling_for_its_flops_and_the_optimizers_bytes() -> None:
    plan = make_plan()
    copy = make_ceiling(kernel="memory_copy", dtype="uint8", metric="call_gib_per_sec", rate=10.0)
    run = make_run(1000.0)  # TFLOP/s 1, a step of 0.1 s

    near = at_ceiling(plan, runs=[run], ceilings=[make_ceiling(rate=2.0), copy], machine=ONE_THREAD)

    assert near is not None
    assert near.products_pct == pytest.approx(50.0)
    assert near.products_sec == pytest.approx(0.05)
    assert near.optimizer_sec is not None
    weights = near.optimizer_sec * 10.0 * 2**30 / 28
    whole = sum(math.prod(weight.shape) for weight in model_weights(plan.model))
    assert weights == pytest.approx(whole / 2, rel=0.01)  # two shards
    assert near.step_pct == pytest.approx(100 * (0.05 + near.optimizer_sec) / 0.1)


def test_without_a_copy_only_products_count() -> None:
    near = at_ceiling(make_plan(), runs=[make_run(1000.0)], ceilings=[make_ceiling()], machine=ONE_THREAD)

    assert near is not None
    assert near.optimizer_sec is None
    assert near.step_pct == near.products_pct


@pytest.mark.parametrize(
    ("changes", "machine", "words"),
    [
        ({"dtype": "bf16"}, ONE_THREAD, "no product in fp32 with one thread is stored of this machine"),
        ({}, {"cores": 8}, "no product in fp32 with 4 threads, which a rank of this case has, is stored"),
    ],
)
def test_a_case_without_a_ceiling_says_why(changes: dict[str, Any], machine: dict[str, int], words: str) -> None:
    near = at_ceiling(make_plan(), runs=[make_run()], ceilings=[make_ceiling(**changes)], machine=machine)

    assert near is not None
    assert near.products_pct is None
    assert words in near.why_none


def test_runs_without_tflops_have_nothing_beside_a_ceiling() -> None:
    run = Run(metrics={"step_time_sec": 0.1}, num_steps=5, step_time_mad_pct=0.1)

    assert at_ceiling(make_plan(), runs=[run], ceilings=[make_ceiling()], machine=ONE_THREAD) is None


def test_reinforcement_learning_is_compared_by_its_training_alone() -> None:
    metrics = {"step_time_sec": 1.0, "training_tflops_per_sec_per_gpu": 1.5}
    run = Run(metrics=metrics, num_steps=5, step_time_mad_pct=0.1)

    near = at_ceiling(make_rl_plan(), runs=[run], ceilings=[make_ceiling()], machine=ONE_THREAD)

    assert near is not None
    assert near.products_pct == pytest.approx(75.0)
    assert near.step_pct is None


def test_a_stored_case_stands_beside_the_products_of_its_machine() -> None:
    workload = {"workload": "pretrain", "precision": "bf16", "layout": {"gpus": 2, "dp_shard": 2},
                "global_batch_size": 4, "seq_len": 64}  # fmt: skip
    baseline = make_baseline((1000.0,), workload=workload, machine={"device": "NVIDIA H100", "gpus": 2})
    gemm = make_ceiling(dtype="bf16", threads=0, rate=4.0)

    assert share_of_products(baseline, ceilings=[gemm]) == OfProducts(
        case=baseline.case, tflops=1.0, mfu_pct=None, products_pct=25.0
    )
    without = share_of_products(baseline, ceilings=[])
    assert without is not None
    assert without.products_pct is None
