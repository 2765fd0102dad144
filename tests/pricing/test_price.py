"""Prices over unstated settings, and step times of stored baselines and published rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Baseline, PublishedSource
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import Run, workload_of
from pytest_nemoperf.pricing.price import Price, price_plan
from pytest_nemoperf.recipes.recipe import Plan, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import System, find_system
from tests.builders import MACHINE, make_provenance

H100 = find_system("h100")
COPIES = Layout(gpus=8, dp_replicate=8)
PAGE = PublishedSource(
    row="pt1", release="26.04", source="NVIDIA-NeMo/Megatron-Bridge", url="", framework="megatron_bridge"
)


def make_plan(**changes: Any) -> Plan:
    values: dict[str, Any] = {
        "model": "llama3-8b",
        "layouts": {"h100": COPIES},
        "seq_len": 8192,
        "global_batch_size": 128,
        "framework": "megatron",
    }
    return resolve(Recipe(**{**values, **changes}), system=H100)


def price_of(plan: Plan, *, system: System = H100, **changes: Any) -> Price:
    return price_plan(plan, system=system, **{"baseline": None, **changes})


def with_memory(gigabytes: float) -> System:
    return replace(H100, memory_gb=gigabytes)


def make_baseline(plan: Plan, *, metrics: dict[str, float], **changes: Any) -> Baseline:
    values: dict[str, Any] = {
        "case": plan.case,
        "system": plan.system,
        "machine": MACHINE,
        "workload": workload_of(plan),
        "runs": (Run(metrics=metrics, num_steps=5, step_time_mad_pct=0.0),),
        "provenance": make_provenance(),
        "reason": "",
    }
    return Baseline(**{**values, **changes})


def make_page(plan: Plan, **metrics: float) -> Baseline:
    return make_baseline(plan, metrics=metrics, machine={}, workload={"seq_len": 8192}, published=PAGE)


def test_a_stated_plan_has_one_price() -> None:
    price = price_of(make_plan())

    assert price.memory_range is None
    assert price.is_fitting is False


def test_the_ends_of_the_range_are_the_settings_that_take_least_and_most() -> None:
    plan = make_plan(unstated=("recompute", "shard_optimizer"))
    least = make_plan(recompute=Recompute.FULL, layouts={"h100": replace(COPIES, shard_optimizer=True)})

    price = price_of(plan)

    assert price.memory_range is not None
    assert price.memory_range.unstated == ("recompute", "shard_optimizer")
    assert price.memory_range.low_bytes == price_of(least).peak_bytes
    assert price.memory_range.high_bytes == price_of(make_plan()).peak_bytes


def test_a_stated_setting_stays_as_it_is() -> None:
    full = make_plan(recompute=Recompute.FULL, unstated=("shard_optimizer",))

    price = price_of(full)

    assert price.memory_range is not None
    assert price.memory_range.high_bytes == price.peak_bytes


def test_a_layout_without_copies_has_no_states_to_share_out() -> None:
    plan = make_plan(layouts={"h100": Layout(gpus=8, dp_shard=8)}, unstated=("shard_optimizer",))

    price = price_of(plan)

    assert price.memory_range is not None
    assert price.memory_range.low_bytes == price.memory_range.high_bytes == price.peak_bytes


@pytest.mark.parametrize(
    ("gigabytes", "outcome"),
    [
        pytest.param(10_000.0, "True", id="even-the-most-fits"),
        pytest.param(120.0, "None", id="the-least-fits"),
        pytest.param(1.0, "None", id="not-even-the-least-fits"),
    ],
)
def test_unstated_settings_never_make_a_plan_too_large(gigabytes: float, outcome: str) -> None:
    plan = make_plan(unstated=("recompute", "shard_optimizer"))

    assert str(price_of(plan, system=with_memory(gigabytes)).is_fitting) == outcome


def test_a_stored_step_time_comes_before_a_published_one() -> None:
    plan = make_plan()
    stored = make_baseline(plan, metrics={"step_time_sec": 2.0, "tokens_per_sec_per_gpu": 65536.0})

    price = price_of(plan, baseline=stored, published=make_page(plan, tokens_per_sec_per_gpu=100.0))

    assert price.expected is not None
    assert (price.expected.step_time_sec, price.expected.published) == (2.0, "")


def test_a_published_rate_gives_the_step_time_where_nothing_is_stored() -> None:
    plan = make_plan()

    price = price_of(plan, published=make_page(plan, tokens_per_sec_per_gpu=16384.0), run_tokens=16384 * 8 * 3600)

    assert price.expected is not None
    assert price.expected.step_time_sec == 8.0
    assert price.expected.published == "NVIDIA-NeMo/Megatron-Bridge 26.04"
    assert (price.expected.run_hours, price.expected.run_gpu_hours) == (1.0, 8.0)
    assert price.no_expectation == ""


def test_a_printed_step_time_is_taken_as_it_is() -> None:
    plan = make_plan()

    price = price_of(plan, published=make_page(plan, tokens_per_sec_per_gpu=16384.0, step_time_sec=7.5))

    assert price.expected is not None
    assert price.expected.step_time_sec == 7.5


def test_a_page_without_a_rate_gives_no_step_time() -> None:
    plan = make_plan()

    price = price_of(plan, published=make_page(plan, tflops_per_sec_per_gpu=400.0))

    assert price.expected is None
    assert price.no_expectation == (
        "no baseline is stored for this case, and row pt1 of NVIDIA-NeMo/Megatron-Bridge 26.04 has no step time"
    )


def test_a_page_that_judges_and_gives_no_step_time_is_told_once() -> None:
    plan = make_plan()
    page = make_page(plan, tflops_per_sec_per_gpu=400.0)

    price = price_of(plan, baseline=page, published=page)

    assert price.no_expectation == "row pt1 of NVIDIA-NeMo/Megatron-Bridge 26.04 has no step time"


def test_a_stored_baseline_of_another_workload_leaves_the_page() -> None:
    plan = make_plan()
    other = make_baseline(plan, metrics={"step_time_sec": 2.0, "tokens_per_sec_per_gpu": 1.0}, workload={"seq_len": 1})

    price = price_of(plan, baseline=other, published=make_page(plan, tokens_per_sec_per_gpu=16384.0))

    assert price.expected is not None
    assert price.expected.step_time_sec == 8.0
