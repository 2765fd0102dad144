"""Verdicts beside one published value: what a page does not print decides nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.baselines.baseline import Baseline, PublishedSource
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.records.metrics import MEAN_RESPONSE_LEN
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict, judge
from tests.builders import FLOPS_PER_TOKEN, MACHINE, make_measurement, make_policy, make_provenance, make_run

PAGE = PublishedSource(
    row="pt1",
    release="26.04",
    source="NVIDIA-NeMo/Megatron-Bridge",
    url="https://github.com/page.md",
    framework="megatron_bridge",
    notes=("not printed, so it may differ: recomputation",),
)


def make_page(rate: float = 1000.0, *, metrics: dict[str, float] | None = None, **changes: Any) -> Baseline:
    printed = {"tokens_per_sec_per_gpu": rate}
    run = Run(metrics=metrics or printed, num_steps=0, step_time_mad_pct=0.0)
    values: dict[str, Any] = {
        "case": "pretrain-test",
        "system": "cpu",
        "machine": {},
        "workload": {"layout": {"tp": 1}},
        "runs": (run,),
        "provenance": make_provenance(git_commit=None),
        "reason": "published",
        "published": PAGE,
    }
    return Baseline(**{**values, **changes})


def judged(measurement: Measurement, *, page: Baseline | None = None, **changes: Any) -> Verdict:
    return judge(measurement, baseline=page or make_page(), machine=MACHINE, policy=make_policy(**changes))


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        pytest.param((1000.0, 990.0), VerdictKind.PASSED, id="equal"),
        pytest.param((900.0, 905.0), VerdictKind.REGRESSED, id="slower"),
        pytest.param((900.0,), VerdictKind.INCONCLUSIVE, id="one-launch-condemns-nothing"),
        pytest.param((1100.0, 1105.0), VerdictKind.IMPROVED, id="faster"),
    ],
)
def test_printed_speed_decides(rates: tuple[float, ...], kind: VerdictKind) -> None:
    assert judged(make_measurement(rates)).kind is kind


def test_a_verdict_says_what_it_rests_on() -> None:
    verdict = judged(make_measurement((900.0, 905.0)))

    assert verdict.reasons == (
        "tokens/sec/GPU is 9.8% below the value published in NVIDIA-NeMo/Megatron-Bridge 26.04 (902 against 1,000; "
        "allows 5%, finds 8.96%)",
        "compared with one published value without spread: row pt1 of NVIDIA-NeMo/Megatron-Bridge 26.04; how far "
        "sessions and launches differ is not printed, so it is taken from the class of the system: 0.1% and 0.5%; its "
        "machine is not named, and how far machines differ is not counted",
        "https://github.com/page.md",
        "not printed, so it may differ: recomputation",
    )


def test_losses_and_slow_steps_are_not_compared() -> None:
    stalling = replace(make_run(1000.0, loss=99.0), num_outliers=5, slow_steps_pct=300.0)

    verdict = judged(make_measurement(runs=(stalling, stalling)))

    assert verdict.kind is VerdictKind.PASSED
    assert "slow" not in " ".join(verdict.reasons)


def test_metrics_that_are_not_printed_are_not_judged() -> None:
    swollen = make_run(1000.0, memory_gib=70.0)

    verdict = judged(make_measurement(runs=(swollen, swollen)))

    assert [each.metric for each in verdict.comparisons] == ["tokens_per_sec_per_gpu"]
    assert "peak memory" not in " ".join(verdict.reasons)


def test_printed_memory_is_judged() -> None:
    page = make_page(metrics={"tokens_per_sec_per_gpu": 1000.0, "peak_memory_gib": 1.0})
    swollen = make_run(1000.0, memory_gib=1.3)

    assert judged(make_measurement(runs=(swollen, swollen)), page=page).kind is VerdictKind.REGRESSED


def test_flops_compare_under_one_convention() -> None:
    metrics = {"tflops_per_sec_per_gpu": 1.0}
    page = make_page(metrics=metrics, flops_per_token=FLOPS_PER_TOKEN, flops_convention="megatron-bridge")

    verdict = judged(make_measurement((1000.0, 1000.0)), page=page)

    assert verdict.kind is VerdictKind.PASSED
    assert [each.metric for each in verdict.comparisons] == ["tflops_per_sec_per_gpu"]


def test_a_page_without_a_judged_metric_does_not_compare() -> None:
    page = make_page(metrics={"step_time_sec": 3.0})

    verdict = judged(make_measurement((1000.0,)), page=page)

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert verdict.reasons[0] == (
        "none of these metrics is printed by NVIDIA-NeMo/Megatron-Bridge 26.04 (row pt1), which prints step_time_sec"
    )


def test_coarse_rounding_widens_the_noise_and_is_told() -> None:
    rates = (920.0, 921.0)
    rounded = replace(PAGE, rounding_pct={"tokens_per_sec_per_gpu": 4.5})

    exact = judged(make_measurement(rates))
    coarse = judged(make_measurement(rates), page=make_page(published=rounded))

    assert exact.kind is VerdictKind.REGRESSED
    assert coarse.kind is VerdictKind.INCONCLUSIVE
    assert "tokens/sec/GPU is printed rounded, up to 4.5% off; that is reckoned with as noise" in coarse.reasons


def test_no_further_baseline_runs_are_asked_of_a_page() -> None:
    verdict = judged(make_measurement((1000.0,) * 5), tolerance_pct=1.0, run_noise_pct=3.0)

    text = " ".join(verdict.reasons)
    assert "a page has no further runs: raise the tolerance" in text
    assert "--update-baselines" not in text


def test_responses_of_other_lengths_do_not_compare_even_if_the_plan_pins_them() -> None:
    page = make_page(metrics={"tokens_per_sec_per_gpu": 1000.0, MEAN_RESPONSE_LEN.name: 1060.0})
    run = make_run(1000.0)
    run = replace(run, metrics={**run.metrics, MEAN_RESPONSE_LEN.name: 2048.0})
    workload = {"rl": {"response_lengths": "fixed"}, "layout": {"tp": 1}}

    verdict = judged(make_measurement(runs=(run, run), workload=workload), page=page)

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "2,048" in verdict.reasons[0]
    assert verdict.reasons[-2:] == (
        "beside one published value: row pt1 of NVIDIA-NeMo/Megatron-Bridge 26.04",
        "https://github.com/page.md",
    )


def test_an_invalid_run_stays_invalid() -> None:
    assert judged(make_measurement(problems=("run 1: no loss",))).kind is VerdictKind.INVALID


def test_the_reason_for_no_row_stands_in_place_of_the_folder() -> None:
    verdict = judge(
        make_measurement(), baseline=None, machine=MACHINE, policy=make_policy(), looked_in="b", why_none="no such row"
    )

    assert verdict.reasons[0] == "no such row"
