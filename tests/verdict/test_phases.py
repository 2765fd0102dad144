"""Phases of reinforcement learning, judged beside the whole step: runs are invented, noise is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import (
    EXPOSED_GENERATION_SEC,
    GENERATION_TOKENS_PER_SEC_PER_GPU,
    JUDGED,
    LOGPROB_TOKENS_PER_SEC_PER_GPU,
    REFIT_TIME_SEC,
    TRAINING_TOKENS_PER_SEC_PER_GPU,
    Judged,
)
from pytest_nemoperf.verdict.comparison import VerdictKind, compare_runs
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.phases import with_causes
from pytest_nemoperf.verdict.policy import VerdictPolicy, default_tolerances, merge_tolerances, parse_tolerances
from pytest_nemoperf.verdict.waivers import apply_waiver, parse_waiver
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance

TOKENS = 1000.0
NAMES = ("refit_time_sec", "exposed_generation_sec", "logprob_tokens_per_sec_per_gpu")


def taking_turns(
    *, generation: float = 0.05, logprobs: float = 0.01, training: float = 0.035, refit: float = 0.005
) -> Run:
    """Return a run whose ranks do one thing after another."""
    phases = {"generation": generation, "policy_logprobs": logprobs, "training": training, "refit": refit}
    return _run(phases, generation=generation, logprobs=logprobs, training=training, refit=refit)


def overlapping(
    *, generation: float = 0.05, logprobs: float = 0.01, training: float = 0.085, refit: float = 0.005
) -> Run:
    """Return a run whose ranks train while others generate: the step takes as long as the slower side."""
    busy = logprobs + training + refit
    exposed = max(generation + refit - busy, 0.0)
    phases = {"policy_logprobs": logprobs, "training": training, "refit": refit, "exposed_generation": exposed + 0.001}
    run = _run(phases, generation=generation, logprobs=logprobs, training=training, refit=refit)
    metrics = {**run.metrics, EXPOSED_GENERATION_SEC.name: exposed + 0.001}
    return replace(run, metrics=metrics)


def _run(phases: Mapping[str, float], *, generation: float, logprobs: float, training: float, refit: float) -> Run:
    step = sum(phases.values())
    metrics = {
        "tokens_per_sec_per_gpu": TOKENS / step,
        "step_time_sec": step,
        "peak_memory_gib": 1.0,
        GENERATION_TOKENS_PER_SEC_PER_GPU.name: TOKENS / generation,
        LOGPROB_TOKENS_PER_SEC_PER_GPU.name: TOKENS / logprobs,
        TRAINING_TOKENS_PER_SEC_PER_GPU.name: TOKENS / training,
        REFIT_TIME_SEC.name: refit,
    }
    return Run(metrics=metrics, phases=phases, num_steps=10, last_step=12, step_time_mad_pct=1.0)


def of_sessions(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs, each of a session of its own, so that nothing is unknown of how far days differ."""
    return tuple(replace(run, session=f"2026-11-{number:02d}") for number, run in enumerate(runs, start=1))


def judged(now: Run, *, then: Run, named: Mapping[str, float] | None = None, **baseline: Any) -> Verdict:
    """Return the verdict on five equal runs beside five equal ones; tolerance 5%, and those that are named."""
    policy = make_policy()
    return judge(
        make_measurement(runs=(now,) * 5),
        baseline=make_baseline(runs=of_sessions((then,) * 5), **baseline),
        machine=MACHINE,
        policy=replace(policy, tolerances={**policy.tolerances, **(named or {})}),
    )


def told_apart(verdict: Verdict) -> list[str]:
    """Return the regressed metrics that are not told with another."""
    regressed = [each for each in verdict.comparisons if each.kind is VerdictKind.REGRESSED]
    return [each.metric for each in regressed if not each.told_with]


def test_a_loss_of_generation_fails_once_and_its_first_line_names_it() -> None:
    verdict = judged(taking_turns(generation=0.075), then=taking_turns())

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons == (
        "generation is the cause: 20,000 -> 13,333 tokens/sec/GPU of generation (-33.3%); tokens/sec/GPU is 20.0% "
        "below the baseline (8,000 against 10,000; allows 5%, finds 6.72%)",
    )
    assert told_apart(verdict) == ["tokens_per_sec_per_gpu"]


def test_a_loss_of_refit_fails_only_if_a_tolerance_is_named() -> None:
    slow = taking_turns(refit=0.008)

    silent = judged(slow, then=taking_turns())
    verdict = judged(slow, then=taking_turns(), named={"refit_time_sec": 10.0})

    assert silent.kind is VerdictKind.PASSED
    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[0].startswith("refit time is 60.0% above the baseline (8 ms against 5 ms; allows 10%,")
    assert verdict.reasons[0].endswith("the whole step is PASSED: tokens/sec/GPU -2.9%")


def test_a_loss_that_overlap_hides_is_regressed_and_named() -> None:
    verdict = judged(overlapping(generation=0.08), then=overlapping())

    assert verdict.kind is VerdictKind.REGRESSED
    (reason,) = verdict.reasons
    assert reason.startswith("generation is 37.5% below the baseline (12,500 tokens/sec/GPU against 20,000")
    assert reason.endswith("the whole step is PASSED: tokens/sec/GPU +0.0%")


def test_generation_that_outgrows_training_fails_once_with_the_wait_for_it() -> None:
    named = dict.fromkeys(NAMES, 10.0)

    verdict = judged(overlapping(generation=0.2), then=overlapping(), named=named)

    assert verdict.kind is VerdictKind.REGRESSED
    (reason,) = verdict.reasons
    assert reason.startswith(
        "generation is the cause: 20,000 -> 5,000 tokens/sec/GPU of generation (-75.0%); tokens/sec"
    )
    assert told_apart(verdict) == ["tokens_per_sec_per_gpu"]
    told_with = {each.metric: each.told_with for each in verdict.comparisons if each.told_with}
    assert told_with == {
        GENERATION_TOKENS_PER_SEC_PER_GPU.name: "tokens_per_sec_per_gpu",
        EXPOSED_GENERATION_SEC.name: GENERATION_TOKENS_PER_SEC_PER_GPU.name,
    }


def test_a_wait_that_grew_alone_is_the_cause() -> None:
    slow = overlapping()
    seconds = {**slow.phases, "exposed_generation": 0.041}
    waiting = _run(seconds, generation=0.05, logprobs=0.01, training=0.085, refit=0.005)
    waiting = replace(waiting, metrics={**waiting.metrics, EXPOSED_GENERATION_SEC.name: 0.041})

    verdict = judged(waiting, then=slow, named={"exposed_generation_sec": 50.0})

    assert verdict.reasons[0].startswith(
        "exposed generation is the cause: 1 ms -> 41 ms of exposed generation (+4000.0%)"
    )


def test_phases_that_slow_down_together_are_one_cause_the_larger_first() -> None:
    slow = taking_turns(generation=0.06, logprobs=0.012, training=0.042, refit=0.006)

    verdict = judged(slow, then=taking_turns())

    (reason,) = verdict.reasons
    assert reason.startswith("generation and training are the cause: 20,000 -> 16,667 tokens/sec/GPU of generation")


def test_two_causes_of_overlapping_phases_are_told_apart() -> None:
    verdict = judged(overlapping(generation=0.08, training=0.125), then=overlapping())

    first, second = verdict.reasons
    assert first.startswith(
        "training is the cause: 11,765 -> 8,000 tokens/sec/GPU of training (-32.0%); tokens/sec/GPU is"
    )
    assert second.startswith("generation is 37.5% below the baseline")
    assert second.endswith("the change of tokens/sec/GPU has another cause")
    assert told_apart(verdict) == ["tokens_per_sec_per_gpu", GENERATION_TOKENS_PER_SEC_PER_GPU.name]


def test_a_phase_without_a_tolerance_is_named_as_the_cause_if_most_of_the_loss_is_its() -> None:
    verdict = judged(taking_turns(refit=0.055), then=taking_turns())

    (reason,) = verdict.reasons
    assert reason.startswith("refit is the cause: 5 ms -> 55 ms of a step; tokens/sec/GPU is 33.3% below")


def test_a_loss_of_memory_has_no_phase() -> None:
    run = taking_turns()
    large = replace(run, metrics={**run.metrics, "peak_memory_gib": 2.0})

    verdict = judged(large, then=run)

    assert verdict.reasons == (
        "peak memory is 100.0% above the baseline (2 GiB against 1 GiB; allows 5%, finds 5.76%)",
    )


def test_a_phase_comes_before_memory() -> None:
    slow = overlapping(generation=0.08)
    large = replace(slow, metrics={**slow.metrics, "peak_memory_gib": 2.0})

    verdict = judged(large, then=overlapping())

    assert [reason.split()[0] for reason in verdict.reasons] == ["generation", "peak"]


def test_without_recorded_phases_the_regressed_ones_are_the_cause() -> None:
    slow = replace(taking_turns(generation=0.075), phases={})

    verdict = judged(slow, then=replace(taking_turns(), phases={}))

    (reason,) = verdict.reasons
    assert reason.startswith("generation is the cause: ")


def test_a_gain_names_its_phase() -> None:
    verdict = judged(taking_turns(generation=0.03), then=taking_turns())

    assert verdict.kind is VerdictKind.IMPROVED
    assert verdict.reasons[0].startswith(
        "generation is the cause: 20,000 -> 33,333 tokens/sec/GPU of generation (+66.7%)"
    )


def test_decay_from_the_anchor_names_its_phase() -> None:
    anchor = Anchor(name="r1", runs=of_sessions((taking_turns(),) * 5), provenance=make_provenance())

    verdict = judged(taking_turns(generation=0.075), then=taking_turns(generation=0.075), anchor=anchor)

    (reason,) = verdict.reasons
    assert reason.startswith("generation is the cause: 20,000 -> 13,333 tokens/sec/GPU of generation (-33.3%); tokens")
    assert "20.0% below the anchor r1" in reason


@pytest.mark.parametrize("name", [metric.name for metric in JUDGED if metric.judged is Judged.AS_TOKENS_PER_SEC])
def test_rates_that_only_the_baseline_has_are_named(name: str) -> None:
    run = taking_turns()
    lacking = replace(run, metrics={key: value for key, value in run.metrics.items() if key != name})

    verdict = judged(lacking, then=run)

    assert verdict.kind is VerdictKind.PASSED
    assert len(verdict.reasons) == 1
    assert "is not judged: the baseline has it, this session lacks it" in verdict.reasons[0]


def test_a_baseline_without_phases_judges_the_whole_step_alone() -> None:
    run = taking_turns()
    old = {name: run.metrics[name] for name in ("tokens_per_sec_per_gpu", "step_time_sec", "peak_memory_gib")}

    verdict = judged(taking_turns(generation=0.075), then=replace(run, metrics=old, phases={}))

    assert [each.metric for each in verdict.comparisons] == ["tokens_per_sec_per_gpu", "peak_memory_gib"]
    assert verdict.reasons[0].startswith("tokens/sec/GPU is 20.0% below")


def test_a_waivers_floor_is_that_of_the_whole_step_and_of_a_phase_that_stands_alone() -> None:
    waiver = parse_waiver({"reason": "known", "until": "2030-01-01", "floor": 75}, subject="test")

    caused = apply_waiver(
        judged(taking_turns(generation=0.075), then=taking_turns()), waiver=waiver, today=date(2026, 1, 1), release=""
    )
    hidden = apply_waiver(
        judged(overlapping(generation=0.08), then=overlapping()), waiver=waiver, today=date(2026, 1, 1), release=""
    )

    assert caused.waived
    assert "generation reaches 62.5% of the baseline, the floor is 75%" in hidden.note


def noisy(scatter: float) -> tuple[Run, ...]:
    """Return five runs of overlapping phases whose generation scatters, behind training."""
    return tuple(overlapping(generation=0.05 * (1.0 + scatter * step)) for step in (-1.0, -0.5, 0.0, 0.5, 1.0))


def on_noisy_runs(now: Run, *, tolerances: Mapping[str, float]) -> Verdict:
    policy = make_policy()
    return judge(
        make_measurement(runs=(now,) * 5),
        baseline=make_baseline(runs=of_sessions(noisy(0.2))),
        machine=MACHINE,
        policy=replace(policy, tolerances={**policy.tolerances, **tolerances}),
    )


def test_a_phase_that_is_too_noisy_for_the_steps_tolerance_decides_nothing() -> None:
    verdict = on_noisy_runs(overlapping(generation=0.052), tolerances={})

    assert verdict.kind is VerdictKind.PASSED
    (reason,) = verdict.reasons
    assert reason.startswith("generation is ")
    assert "it decides nothing: name a tolerance" in reason
    assert reason.endswith(
        "it decides nothing: name a tolerance of generation_tokens_per_sec_per_gpu to have it judged"
    )


def test_a_noisy_phase_that_is_named_is_inconclusive() -> None:
    verdict = on_noisy_runs(overlapping(generation=0.052), tolerances={"generation_tokens_per_sec_per_gpu": 5.0})

    assert verdict.kind is VerdictKind.INCONCLUSIVE


def test_a_large_loss_of_a_noisy_phase_is_regressed() -> None:
    verdict = on_noisy_runs(overlapping(generation=0.09), tolerances={})

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[0].startswith("generation is ")


def test_pre_training_is_left_as_it_is() -> None:
    measurement = make_measurement((800.0,) * 3)
    baseline = make_baseline()
    comparisons = compare_runs(measurement, baseline=baseline, policy=make_policy())

    assert comparisons
    assert with_causes(comparisons, runs=measurement.runs, baseline=baseline) == comparisons


seconds = st.floats(0.002, 0.4)


@given(
    st.sampled_from([taking_turns, overlapping]),
    *[st.fixed_dictionaries({"generation": seconds, "logprobs": seconds, "training": seconds, "refit": seconds})] * 2,
)
def test_causes_change_no_kind_and_leave_something_to_tell(
    make: Any, before: dict[str, float], after: dict[str, float]
) -> None:
    policy = make_policy()
    policy = replace(policy, tolerances={**policy.tolerances, **dict.fromkeys(NAMES, 10.0)})
    measurement = make_measurement(runs=(make(**after),) * 3)
    baseline = make_baseline(runs=(make(**before),) * 3)
    comparisons = compare_runs(measurement, baseline=baseline, policy=policy)

    told = with_causes(comparisons, runs=measurement.runs, baseline=baseline)

    assert [(each.metric, each.kind) for each in told] == [(each.metric, each.kind) for each in comparisons]
    for kind in (VerdictKind.REGRESSED, VerdictKind.IMPROVED):
        own = [each for each in told if each.kind is kind]
        assert not own or any(not each.told_with for each in own)


RANKS = {VerdictKind.IMPROVED: 0, VerdictKind.PASSED: 1, VerdictKind.INCONCLUSIVE: 2, VerdictKind.REGRESSED: 3}


@given(st.floats(0.5, 2.0), st.floats(1.0, 3.0), st.floats(0.0, 0.3))
def test_a_slower_phase_never_makes_the_verdict_on_noisy_runs_better(
    factor: float, slower: float, scatter: float
) -> None:
    verdicts = []
    for seconds in (0.05 * factor, 0.05 * factor * slower):
        measurement = make_measurement(runs=(overlapping(generation=seconds),) * 5)
        baseline = make_baseline(runs=noisy(scatter))
        verdicts.append(judge(measurement, baseline=baseline, machine=MACHINE, policy=make_policy()))

    before, after = verdicts
    assert RANKS[after.kind] >= RANKS[before.kind]


@given(
    st.sampled_from([taking_turns, overlapping]),
    st.sampled_from(["generation", "training"]),
    st.floats(0.5, 2.0),
    st.floats(1.0, 3.0),
)
def test_a_slower_phase_never_makes_the_verdict_better(make: Any, phase: str, factor: float, slower: float) -> None:
    usual = {"generation": 0.05, "training": 0.06}
    then = make(**usual)

    before = judged(make(**{**usual, phase: usual[phase] * factor}), then=then)
    after = judged(make(**{**usual, phase: usual[phase] * factor * slower}), then=then)

    assert RANKS[after.kind] >= RANKS[before.kind]


# --- tolerances -----------------------------------------------------------------------------------------------------


def policy_of(layers: Sequence[Mapping[str, float]]) -> VerdictPolicy:
    return replace(make_policy(), tolerances=merge_tolerances([default_tolerances(find_system("h100")), *layers]))


def test_generation_and_training_have_the_tolerance_of_the_case_by_default() -> None:
    policy = policy_of([{"tokens_per_sec_per_gpu": 2.0}])

    assert policy.tolerance_pct(GENERATION_TOKENS_PER_SEC_PER_GPU) == 2.0
    assert policy.tolerance_pct(TRAINING_TOKENS_PER_SEC_PER_GPU) == 2.0
    assert not set(NAMES) & {metric.name for metric in policy.judged_metrics()}


def test_a_named_phase_has_its_own_tolerance() -> None:
    policy = policy_of([{"generation_tokens_per_sec_per_gpu": 8.0}, {"tokens_per_sec_per_gpu": 2.0}])

    assert policy.tolerance_pct(GENERATION_TOKENS_PER_SEC_PER_GPU) == 8.0
    assert policy.tolerance_pct(TRAINING_TOKENS_PER_SEC_PER_GPU) == 2.0


def test_one_for_all_replaces_weaker_ones_of_metrics_that_are_judged_by_default() -> None:
    policy = policy_of([{"generation_tokens_per_sec_per_gpu": 8.0, "refit_time_sec": 20.0}, {"all": 4.0}])

    assert policy.tolerance_pct(GENERATION_TOKENS_PER_SEC_PER_GPU) == 4.0
    assert policy.tolerance_pct(REFIT_TIME_SEC) == 20.0


def test_one_for_all_does_not_begin_to_judge_what_is_judged_only_when_named() -> None:
    policy = policy_of([{"all": 4.0}])

    assert not set(NAMES) & {metric.name for metric in policy.judged_metrics()}


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_that_is_named_is_judged(name: str) -> None:
    policy = policy_of([parse_tolerances([f"{name}=10"], subject="--perf-tolerance")])

    assert name in {metric.name for metric in policy.judged_metrics()}


def test_an_unknown_phase_is_refused_with_a_hint() -> None:
    with pytest.raises(RecipeError, match=r"'refit_time' is not a judged metric; did you mean refit_time_sec\?"):
        parse_tolerances(["refit_time=10"], subject="--perf-tolerance")
