from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.measure.measurement import Measurement, Run, workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.rollout_bands import band_problems
from tests.builders import MACHINE, make_baseline, make_rl, make_rl_plan, make_rl_records, make_run, measure_records
from tests.report.builders import POLICY

SAMPLED: dict[str, dict[str, str]] = {"rl": {"response_lengths": "sampled"}}
PINNED: dict[str, dict[str, str]] = {"rl": {}}
PRETRAIN: dict[str, dict[str, str]] = {}
VARYING: dict[str, Any] = {"has_varying_lengths": True}


def _run(**figures: float) -> Run:
    run = make_run()
    return replace(run, metrics={**run.metrics, **figures}, loss=0.001)


def _judge(now: Run, *, then: Run, workload: dict[str, Any]) -> Verdict:
    measurement = Measurement(case="grpo-test", system="cpu", workload=workload, runs=(now,) * 3)
    baseline = make_baseline(case="grpo-test", workload=workload, runs=(then,) * 3)
    return judge(measurement, baseline=baseline, machine=MACHINE, policy=replace(POLICY, max_runs=3))


@pytest.mark.parametrize(
    ("then", "now", "sentence"),
    [
        pytest.param(
            {"mean_response_len": 655.0},
            {"mean_response_len": 812.0},
            "mean response length is 812 tokens, 655 tokens in the baseline (+24.0%, allowed 5.0%)",
            id="response length",
        ),
        pytest.param(
            {"mean_prompt_len": 100.0},
            {"mean_prompt_len": 94.0},
            "mean prompt length is 94 tokens, 100 tokens in the baseline (-6.0%, allowed 5.0%)",
            id="prompt length",
        ),
        pytest.param(
            {"mean_response_len": 0.0},
            {"mean_response_len": 1.0},
            "mean response length is 1 tokens, 0 tokens in the baseline (from none, allowed 5.0%)",
            id="from empty responses",
        ),
        pytest.param(
            {"truncated_pct": 3.0},
            {"truncated_pct": 12.0},
            "truncated share is 12 %, 3 % in the baseline (+9 points, allowed 5 points)",
            id="truncation",
        ),
        pytest.param(
            {"staleness_steps": 1.0},
            {"staleness_steps": 2.0},
            "staleness is 2 steps, 1 steps in the baseline (+1, allowed 0.5)",
            id="staleness",
        ),
        pytest.param(
            {"batch_fill_pct": 90.0},
            {"batch_fill_pct": 84.0},
            "generation batch fill is 84 %, 90 % in the baseline (-6 points, allowed 5 points)",
            id="batch fill",
        ),
        pytest.param(
            {"num_rounds": 1.0},
            {"num_rounds": 3.0},
            "number of generation rounds is 3, 1 in the baseline (+2, allowed 0.5)",
            id="rounds",
        ),
    ],
)
def test_another_workload_of_free_lengths_does_not_compare(
    then: dict[str, float], now: dict[str, float], sentence: str
) -> None:
    verdict = _judge(_run(**now), then=_run(**then), workload=SAMPLED)

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert verdict.reasons[0] == sentence
    assert verdict.reasons[1:] == ("so tokens/sec/GPU don't compare: 1,000 now, 1,000 in the baseline",)
    assert not verdict.comparisons


@pytest.mark.parametrize(
    ("figure", "now"), [("mean_tokens_per_step", 44.0), ("tokens_spread_pct", 46.0)], ids=["mean", "spread"]
)
def test_sequences_of_other_lengths_do_not_compare_where_lengths_vary(figure: str, now: float) -> None:
    verdict = _judge(_run(**{figure: now}), then=_run(**{figure: 40.0}), workload=VARYING)

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "40" in verdict.reasons[0]
    assert "in the baseline" in verdict.reasons[0]


def test_a_loss_of_speed_at_the_same_lengths_is_a_regression() -> None:
    lengths = {"mean_tokens_per_step": 4000.0, "tokens_spread_pct": 20.0}
    slow = _run(**lengths, tokens_per_sec_per_gpu=500.0)

    assert _judge(slow, then=_run(**lengths), workload=VARYING).kind is VerdictKind.REGRESSED


@pytest.mark.parametrize(
    ("then", "now"),
    [
        pytest.param({"mean_response_len": 100.0}, {"mean_response_len": 105.0}, id="at the border"),
        pytest.param({"truncated_pct": 0.0}, {"truncated_pct": 5.0}, id="points, not percent"),
        pytest.param({"mean_response_len": 100.0}, {}, id="not recorded now"),
        pytest.param({}, {"mean_response_len": 100.0}, id="not in the baseline"),
    ],
)
def test_figures_within_the_band_are_judged(then: dict[str, float], now: dict[str, float]) -> None:
    verdict = _judge(_run(**now), then=_run(**then), workload=SAMPLED)

    assert verdict.kind is VerdictKind.PASSED


def test_pinned_lengths_leave_batch_fill_and_staleness_to_the_verdict() -> None:
    then = {"batch_fill_pct": 95.0, "staleness_steps": 1.0}
    now = {"batch_fill_pct": 40.0, "staleness_steps": 0.0}
    slow = replace(_run(**now), metrics={**_run(**now).metrics, "tokens_per_sec_per_gpu": 500.0})

    verdicts = [_judge(slow, then=_run(**then), workload=workload) for workload in (PINNED, SAMPLED)]

    assert [verdict.kind for verdict in verdicts] == [VerdictKind.REGRESSED, VerdictKind.NOT_COMPARABLE]


def test_more_rounds_of_dynamic_sampling_do_not_compare_even_with_pinned_lengths() -> None:
    problems = band_problems([_run(num_rounds=4.0)], baseline=[_run(num_rounds=1.0)], is_pinned=True)

    assert len(problems) == 1


def test_a_loss_of_reinforcement_learning_is_not_compared() -> None:
    now = replace(_run(), loss=-0.02)
    then = replace(_run(), loss=0.003)

    kinds = [_judge(now, then=then, workload=workload).kind for workload in (SAMPLED, PRETRAIN)]

    assert kinds == [VerdictKind.PASSED, VerdictKind.INVALID]


def _judged(plans: Sequence[Plan]) -> VerdictKind:
    measured = [measure_records(plan, outputs=[make_rl_records(plan)] * 3) for plan in plans]
    baseline = make_baseline(case=measured[0].case, workload=measured[0].workload, runs=measured[0].runs)
    return judge(measured[1], baseline=baseline, machine=MACHINE, policy=POLICY).kind


def test_other_settings_of_reinforcement_learning_are_another_workload() -> None:
    plan = make_rl_plan(rl=make_rl(temperature=1.0))
    warmer = make_rl_plan(rl=make_rl(temperature=0.7))

    assert _judged([plan, plan]) is VerdictKind.PASSED
    assert _judged([plan, warmer]) is VerdictKind.NOT_COMPARABLE
    assert "rl" not in workload_of(replace(plan, rl=None))
