from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.baselines.baseline import Anchor, Baseline
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict, judge
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance, make_run

POLICY = make_policy()


def judged(measurement: Measurement, *, baseline: Baseline | None = None, **changes: Any) -> Verdict:
    values: dict[str, Any] = {"baseline": baseline or make_baseline(), "machine": MACHINE, "policy": POLICY}
    return judge(measurement, **{**values, **changes})


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        pytest.param((1000.0, 990.0, 1010.0), VerdictKind.PASSED, id="equal"),
        pytest.param((976.0, 975.0, 977.0), VerdictKind.PASSED, id="half-of-what-is-allowed"),
        pytest.param((940.0, 930.0, 935.0), VerdictKind.REGRESSED, id="slower"),
        pytest.param((1060.0, 1070.0, 1080.0), VerdictKind.IMPROVED, id="faster"),
        pytest.param((930.0,), VerdictKind.INCONCLUSIVE, id="one-launch-condemns-nothing"),
    ],
)
def test_speed_decides(rates: tuple[float, ...], kind: VerdictKind) -> None:
    assert judged(make_measurement(rates), baseline=make_baseline((995.0, 1000.0, 1005.0))).kind is kind


def test_one_stalled_launch_of_five_does_not_hide_a_regression() -> None:
    stalled = make_baseline((300.0, 995.0, 1000.0, 1005.0, 1002.0))

    assert judged(make_measurement((870.0, 860.0, 880.0, 999.0, 865.0)), baseline=stalled).kind is VerdictKind.REGRESSED


def test_slow_decay_is_caught_against_the_anchor() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1000.0,) * 5).runs, provenance=make_provenance())
    decayed = make_baseline((940.0,) * 5, anchor=anchor)

    verdict = judged(make_measurement((925.0, 925.0)), baseline=decayed)

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[0] == ("tokens/sec/GPU is 7.5% below the anchor 25.09 (925 against 1,000; allowed 5.0%)")


def test_faster_than_the_anchor_is_no_improvement() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1000.0,) * 5).runs, provenance=make_provenance())

    verdict = judged(make_measurement((1200.0,) * 2), baseline=make_baseline((1200.0,) * 5, anchor=anchor))

    assert verdict.kind is VerdictKind.PASSED


@pytest.mark.parametrize("launches", [1, 2, 3, 4, 5])
def test_a_little_faster_than_the_anchor_needs_no_further_launch(launches: int) -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1000.0,) * 5).runs, provenance=make_provenance())
    faster = make_baseline((1035.0,) * 5, anchor=anchor)

    verdict = judged(make_measurement((1035.0,) * launches), baseline=faster, policy=make_policy(run_noise_pct=1.0))

    assert verdict.kind is VerdictKind.PASSED


def test_an_anchor_too_coarse_to_decide_is_left_aside_with_words() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1000.0,)).runs, provenance=make_provenance())
    settled = make_baseline((1000.0, 1001.0, 999.0, 1000.0, 1000.0) * 2, anchor=anchor)

    verdict = judged(make_measurement((1000.0,) * 5), baseline=settled, policy=make_policy(run_noise_pct=1.8))

    assert verdict.kind is VerdictKind.PASSED
    assert "the tolerance 5% is below the noise floor: 1 anchor run with" in verdict.reasons[0]
    assert "so the anchor decides nothing" in verdict.reasons[0]


def test_a_loss_far_beyond_the_tolerance_is_found_against_a_coarse_anchor_too() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((2000.0,)).runs, provenance=make_provenance())
    settled = make_baseline((1000.0, 1001.0, 999.0, 1000.0, 1000.0) * 2, anchor=anchor)

    verdict = judged(make_measurement((1000.0,) * 5), baseline=settled, policy=make_policy(run_noise_pct=1.8))

    assert verdict.kind is VerdictKind.REGRESSED


def test_a_loss_within_the_tolerance_that_regressed_says_what_is_certain() -> None:
    runs = tuple(make_run(memory_gib=1.03) for _ in range(2))

    verdict = judged(make_measurement(runs=runs), policy=make_policy(memory_noise_pct=0.1))

    assert verdict.reasons == (
        "peak memory is 3.0% above the baseline (1.03 GiB against 1 GiB; tolerance 5.0%); "
        "a loss above 2.5% (half of the tolerance) is certain",
    )


def test_where_no_loss_is_harmless_a_regression_says_that_some_loss_is_certain() -> None:
    verdict = judged(
        make_measurement((955.0,) * 5), baseline=make_baseline((1000.0,) * 10), policy=make_policy(run_noise_pct=2.5)
    )

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[0].endswith("; some loss is certain, 5% is possible")


def test_a_pass_at_a_tolerance_finer_than_the_case_resolves_says_so() -> None:
    verdict = judged(make_measurement((1000.0,) * 5), policy=make_policy(run_noise_pct=1.5))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons[0].startswith("tolerance 5% of tokens/sec/GPU is finer than the ")
    assert "runs would" in verdict.reasons[0]
    assert len(verdict.reasons) == 1


def test_a_launch_that_counts_for_less_than_it_showed_is_named() -> None:
    verdict = judged(make_measurement((1000.0, 670.0, 1000.0, 1001.0, 999.0)), policy=make_policy(tolerance_pct=20.0))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == ("run 2 was 33% slower than the next and counts as 11%",)


def test_what_is_measured_once_a_session_is_told_how_many_sessions_it_takes() -> None:
    workload = {"workload": "loop", "name": "mine"}
    once = make_baseline((1000.0, 1001.0), workload=workload)

    verdict = judged(
        make_measurement((1000.0,), workload=workload), baseline=once, policy=make_policy(run_noise_pct=1.8, max_runs=1)
    )

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "2 sessions recorded, it decides from about" in verdict.reasons[0]
    assert "--perf-ab" not in verdict.reasons[0]


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        pytest.param(833.0, "(833 against 1,000; tolerance 20.0%); a loss above 11%", id="a-loss-below-the-tolerance"),
        pytest.param(700.0, "(700 against 1,000; allowed 20.0%)", id="a-loss-beyond-it"),
        pytest.param(1500.0, "(1,500 against 1,000)", id="a-gain"),
    ],
)
def test_a_tolerance_is_what_is_allowed_only_where_more_was_lost(rate: float, words: str) -> None:
    verdict = judged(make_measurement((rate,) * 5), policy=make_policy(tolerance_pct=20.0))

    assert words in verdict.reasons[0]
    assert ("allowed" in verdict.reasons[0]) is ("allowed" in words)


def test_a_tolerance_below_the_noise_is_refused_with_the_runs_that_would_allow_it() -> None:
    noisy = make_baseline((960.0, 1000.0, 1040.0))

    verdict = judged(make_measurement((1000.0,) * 5), baseline=noisy, policy=make_policy(run_noise_pct=4.0))

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "the tolerance 5% is below the noise floor: 3 baseline runs with" in verdict.reasons[0]
    assert "would allow some verdicts: --update-baselines --perf-runs=51" in verdict.reasons[0]


def test_a_quiet_case_of_a_noisy_class_is_told_how_many_runs_and_which_command() -> None:
    quiet = make_baseline((993.0, 1007.0, 1007.0, 993.0, 1000.0))

    verdict = judged(make_measurement((1000.0,) * 5), baseline=quiet, policy=make_policy(run_noise_pct=4.0))

    assert "would allow some verdicts: --update-baselines --perf-runs=" in verdict.reasons[0]
    assert "would resolve the tolerance" in verdict.reasons[0]


def test_a_baseline_of_a_restless_machine_says_that_it_hides_a_loss() -> None:
    baseline = make_baseline((1000.0,))
    baseline = replace(baseline, runs=(replace(baseline.runs[0], drift_pct=40.0),))

    verdict = judged(make_measurement((500.0,)), baseline=baseline)

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert verdict.reasons[-1] == (
        "the baseline is from a restless machine: its speed changed within run 1 by +40%, so 20% noise is reckoned "
        "with until it is recorded anew on a quiet one"
    )


def test_a_restless_session_says_that_its_drift_is_noise() -> None:
    runs = tuple(replace(make_run(500.0), drift_pct=pct) for pct in (40.0, -40.0))

    verdict = judged(make_measurement(runs=runs))

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert {comparison.expected_noise_pct for comparison in verdict.comparisons} == {0.2, 20.0}
    assert "its speed changed within run 1 by +40%, run 2 by -40%" in verdict.reasons[-1]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_figure_is_invalid(value: float) -> None:
    run = make_run()
    impossible = replace(run, metrics={**run.metrics, "peak_memory_gib": value})

    verdict = judged(make_measurement(runs=(impossible,)))

    assert verdict.kind is VerdictKind.INVALID
    assert "only positive, finite figures can be judged" in verdict.reasons[0]


def test_a_regression_says_how_much_and_against_what() -> None:
    verdict = judged(make_measurement((11_290.0,) * 3), baseline=make_baseline((12_036.0,) * 3))

    assert verdict.reasons[0] == ("tokens/sec/GPU is 6.2% below the baseline (11,290 against 12,036; allowed 5.0%)")


def test_more_memory_is_worse() -> None:
    runs = tuple(make_run(memory_gib=1.2) for _ in range(3))

    verdict = judged(make_measurement(runs=runs))

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons == ("peak memory is 20.0% above the baseline (1.2 GiB against 1 GiB; allowed 5.0%)",)


def test_nothing_stored_is_no_baseline() -> None:
    verdict = judge(make_measurement(), baseline=None, machine=MACHINE, policy=POLICY, looked_in="baselines/cpu")

    assert verdict.kind is VerdictKind.NO_BASELINE
    assert verdict.reasons == ("nothing is stored for this case in baselines/cpu",)


def test_another_machine_does_not_compare() -> None:
    verdict = judged(make_measurement(), machine={**MACHINE, "cores": 64})

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert verdict.reasons == ("other machine: cores is 64, 2 in the baseline",)


def test_another_workload_does_not_compare_and_the_difference_is_named() -> None:
    verdict = judged(make_measurement(workload={"seq_len": 64, "layout": {"gpus": 2, "tp": 2}}))

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert verdict.reasons == ("other workload: layout: tp is 2, 1 in the baseline",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"problems": ("5 of 8 steps",)}, "5 of 8 steps", id="problem"),
        pytest.param({"runs": ()}, "no run was measured", id="nothing"),
        pytest.param({"runs": (make_run(loss=3.0),)}, "loss 3 is not the baseline's 6.5", id="other-loss"),
        pytest.param({"flops_per_token": 2e9}, "is not FLOPs per token x tokens/sec/GPU", id="identity"),
    ],
)
def test_a_fast_wrong_run_is_invalid(changes: dict[str, Any], reason: str) -> None:
    verdict = judged(make_measurement(**changes))

    assert verdict.kind is VerdictKind.INVALID
    assert reason in verdict.reasons[0]


def test_invalid_outranks_a_missing_baseline() -> None:
    verdict = judge(make_measurement(problems=("x",)), baseline=None, machine=MACHINE, policy=POLICY)

    assert verdict.kind is VerdictKind.INVALID


def test_under_another_flops_convention_tokens_are_still_judged() -> None:
    run = make_run(900.0)
    runs = (replace(run, metrics={**run.metrics, "tflops_per_sec_per_gpu": 1.8}),) * 3
    verdict = judged(make_measurement(runs=runs, flops_convention="full-attention", flops_per_token=2e9))

    kinds = {comparison.metric: comparison.kind for comparison in verdict.comparisons}
    assert kinds["tokens_per_sec_per_gpu"] is VerdictKind.REGRESSED
    assert kinds["tflops_per_sec_per_gpu"] is VerdictKind.NOT_COMPARABLE
    assert verdict.kind is VerdictKind.REGRESSED


def test_under_a_mended_formula_of_the_same_name_tflops_do_not_compare() -> None:
    mended = replace(make_baseline(), flops_per_token=1.1e9)

    verdict = judged(make_measurement(), baseline=mended)

    kinds = {comparison.metric: comparison.kind for comparison in verdict.comparisons}
    assert kinds["tflops_per_sec_per_gpu"] is VerdictKind.NOT_COMPARABLE
    assert verdict.kind is VerdictKind.PASSED


rate = st.floats(min_value=1.0, max_value=1e6)


@given(st.lists(rate, min_size=1, max_size=5), st.lists(rate, min_size=1, max_size=5))
def test_slower_is_never_improved_and_faster_never_regressed(before: list[float], after: list[float]) -> None:
    verdict = judged(make_measurement(after), baseline=make_baseline(before))

    slower = max(after) < min(before)
    faster = min(after) > max(before)
    assert not (slower and verdict.kind is VerdictKind.IMPROVED)
    assert not (faster and verdict.kind is VerdictKind.REGRESSED)


def test_a_metric_that_the_runs_lack_and_the_baseline_has_is_named() -> None:
    run = make_run()
    metrics = {name: value for name, value in run.metrics.items() if name != "peak_memory_gib"}
    measurement = replace(make_measurement((1000.0,)), runs=(replace(run, metrics=metrics),))

    verdict = judged(measurement)

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == ("peak memory is not judged: the baseline has it, this session lacks it",)
