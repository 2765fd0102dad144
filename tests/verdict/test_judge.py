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
from pytest_nemoperf.verdict.policy import VerdictPolicy
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance, make_run, make_runs

POLICY = make_policy()


def judged(measurement: Measurement, *, baseline: Baseline | None = None, **changes: Any) -> Verdict:
    values: dict[str, Any] = {"baseline": baseline or make_baseline(), "machine": MACHINE, "policy": POLICY}
    return judge(measurement, **{**values, **changes})


@pytest.mark.parametrize(
    ("rates", "kind"),
    [
        pytest.param((1000.0, 990.0, 1010.0), VerdictKind.PASSED, id="equal"),
        pytest.param((955.0, 955.0, 955.0), VerdictKind.PASSED, id="nearly-what-is-allowed"),
        pytest.param((945.0,) * 5, VerdictKind.INCONCLUSIVE, id="between-allowed-and-found"),
        pytest.param((920.0, 915.0, 910.0), VerdictKind.REGRESSED, id="slower"),
        pytest.param((1090.0, 1095.0, 1100.0), VerdictKind.IMPROVED, id="faster"),
        pytest.param((900.0,), VerdictKind.INCONCLUSIVE, id="one-launch-condemns-nothing"),
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

    verdict = judged(make_measurement((915.0, 915.0)), baseline=decayed)

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons[0] == (
        "tokens/sec/GPU is 8.5% below the anchor 25.09 (915 against 1,000; allows 5%, finds 6.8%)"
    )


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

    verdict = judged(make_measurement((1000.0,) * 5), baseline=settled, policy=make_policy(run_noise_pct=5.0))

    assert verdict.kind is VerdictKind.PASSED
    assert "too much noise for 1 anchor run: 5% between launches" in verdict.reasons[0]
    assert "so the anchor decides nothing" in verdict.reasons[0]


def test_rounds_that_may_decide_on_a_suspect_do_not_make_an_anchor_decide() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1000.0,)).runs, provenance=make_provenance())
    settled = make_baseline((1000.0, 1001.0, 999.0, 1000.0, 1000.0) * 2, anchor=anchor)
    policy = make_policy(run_noise_pct=5.0, confirming_rounds=8)

    verdict = judged(make_measurement((1000.0,) * 2), baseline=settled, policy=policy)

    kinds = {each.kind for each in verdict.comparisons if each.anchor and each.metric != "peak_memory_gib"}
    assert kinds == {VerdictKind.NOT_COMPARABLE}


def test_a_loss_far_beyond_the_tolerance_is_found_against_a_coarse_anchor_too() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((2000.0,)).runs, provenance=make_provenance())
    settled = make_baseline((1000.0, 1001.0, 999.0, 1000.0, 1000.0) * 2, anchor=anchor)

    verdict = judged(make_measurement((1000.0,) * 5), baseline=settled, policy=make_policy(run_noise_pct=1.8))

    assert verdict.kind is VerdictKind.REGRESSED


@pytest.mark.parametrize("noise_pct", [0.5, 1.5, 3.0])
def test_a_loss_within_the_tolerance_is_never_a_regression(noise_pct: float) -> None:
    verdict = judged(
        make_measurement((952.0,) * 5),
        baseline=make_baseline((1000.0,) * 10),
        policy=make_policy(run_noise_pct=noise_pct),
    )

    assert verdict.kind in {VerdictKind.PASSED, VerdictKind.INCONCLUSIVE}


def test_memory_within_its_tolerance_passes_and_beyond_what_is_found_does_not() -> None:
    kinds = []
    for memory_gib in (1.045, 1.07):
        runs = tuple(make_run(memory_gib=memory_gib) for _ in range(2))
        kinds.append(judged(make_measurement(runs=runs)).kind)

    assert kinds == [VerdictKind.PASSED, VerdictKind.REGRESSED]


def test_a_pass_of_a_case_that_finds_little_says_so() -> None:
    verdict = judged(make_measurement((1000.0,) * 5), policy=make_policy(run_noise_pct=3.0))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == (
        "tokens/sec/GPU: 5% is allowed, 17.7% found with 3 runs, and a case passes only where 14.3% is ruled out; "
        "6 runs would do: --update-baselines --perf-runs=6",
    )


@pytest.mark.parametrize(
    ("loss_pct", "kind"),
    [
        pytest.param(0.5, VerdictKind.PASSED, id="within-what-is-left"),
        pytest.param(2.5, VerdictKind.INCONCLUSIVE, id="between"),
        pytest.param(4.5, VerdictKind.REGRESSED, id="what-is-to-be-found"),
    ],
)
def test_a_loss_to_be_found_allows_what_the_noise_leaves_below_it(loss_pct: float, kind: VerdictKind) -> None:
    policy = make_policy(finds={"tokens_per_sec_per_gpu": 4.0}, tolerance_pct=20.0)

    verdict = judged(make_measurement((1000.0 - 10.0 * loss_pct,) * 5), policy=policy)

    speed = verdict.comparisons[0]
    assert verdict.kind is kind
    assert speed.finds_pct == pytest.approx(4.0)
    assert 0.0 < speed.allowed_pct < 2.0


def test_noise_that_hides_a_loss_to_be_found_leaves_nothing_allowed_and_says_what_would_do() -> None:
    policy = make_policy(finds={"tokens_per_sec_per_gpu": 2.0})

    verdict = judged(make_measurement((995.0,) * 5), policy=policy)

    speed = verdict.comparisons[0]
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert speed.allowed_pct == 0.0
    assert speed.finds_pct is not None
    assert speed.finds_pct > 2.0
    assert "too much noise for 3 baseline runs: 0.45% between launches" in verdict.reasons[0]
    assert "5 runs would do: --update-baselines --perf-runs=5" in verdict.reasons[0]


@pytest.mark.parametrize("rate", [930.0, 700.0, 100.0])
def test_the_only_launch_that_is_allowed_condemns_nothing_and_says_so(rate: float) -> None:
    verdict = judged(make_measurement((rate,)), policy=make_policy(max_runs=1))

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "undecided after 1 of 1 launch:" in verdict.reasons[0]
    assert "one launch alone is never REGRESSED; judge by up to 5 launches (--perf-max-runs=5)" in verdict.reasons[0]


def test_sessions_that_differ_turn_what_one_of_them_would_condemn_into_a_question() -> None:
    rates = (1000.0, 1001.0, 950.0, 951.0, 1050.0, 1049.0)
    days = ("monday", "monday", "tuesday", "tuesday", "wednesday", "wednesday")
    one_day = make_baseline(runs=make_runs((1000.0, 1001.0, 999.0) * 2))
    three_days = make_baseline(runs=make_runs(rates, sessions=days))

    kinds = [judged(make_measurement((910.0,) * 5), baseline=each).kind for each in (one_day, three_days)]

    assert kinds == [VerdictKind.REGRESSED, VerdictKind.INCONCLUSIVE]


@pytest.mark.parametrize("rate", [945.0, 800.0], ids=["inconclusive", "regressed"])
def test_a_loss_beside_a_baseline_of_one_session_says_that_days_may_differ(rate: float) -> None:
    policy = make_policy(session_noise_pct=0.7)

    verdict = judged(make_measurement((rate,) * 5), policy=policy)

    assert verdict.kind in {VerdictKind.INCONCLUSIVE, VerdictKind.REGRESSED}
    assert verdict.reasons[-1] == (
        "the baseline is of one session, so how far days differ is not known but taken from the class: 0.7%"
    )


@pytest.mark.parametrize(
    ("days", "rate", "memory_gib"),
    [
        pytest.param(("a", "a", "b"), 800.0, 1.0, id="two-sessions"),
        pytest.param(("a", "a", "a"), 1000.0, 1.0, id="a-pass"),
        pytest.param(("a", "a", "a"), 1000.0, 2.0, id="memory-that-days-do-not-change"),
    ],
)
def test_where_days_are_known_or_matter_nothing_no_session_is_spoken_of(
    days: tuple[str, ...], rate: float, memory_gib: float
) -> None:
    baseline = make_baseline(runs=make_runs((1000.0,) * 3, sessions=days))

    verdict = judged(make_measurement(runs=(make_run(rate, memory_gib=memory_gib),) * 5), baseline=baseline)

    assert "session" not in " ".join(verdict.reasons)


def test_a_launch_that_counts_for_less_than_it_showed_is_named() -> None:
    verdict = judged(make_measurement((1000.0, 670.0, 1000.0, 1001.0, 999.0)), policy=make_policy(tolerance_pct=20.0))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == ("run 2 was 33% slower than the next and counts as 11%",)


def test_what_is_measured_once_a_session_is_told_how_many_sessions_it_takes() -> None:
    workload = {"workload": "loop", "name": "mine"}
    once = make_baseline(runs=make_runs((1000.0, 1001.0), sessions=("monday", "tuesday")), workload=workload)

    verdict = judged(
        make_measurement((940.0,), workload=workload),
        baseline=once,
        policy=make_policy(run_noise_pct=1.8, max_runs=1, min_runs=1),
    )

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "2 sessions recorded, 5 would do: --update-baselines --perf-runs=5 adds one a session" in verdict.reasons[0]
    assert "--perf-ab" not in verdict.reasons[0]


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        pytest.param(700.0, "(700 against 1,000; allows 20%, finds 21.9%)", id="a-loss"),
        pytest.param(790.0, "(790 against 1,000; allows 20%, finds 21.9%); undecided after", id="nothing-certain"),
        pytest.param(1500.0, "(1,500 against 1,000)", id="a-gain"),
    ],
)
def test_what_is_allowed_and_found_stands_beside_a_loss(rate: float, words: str) -> None:
    verdict = judged(make_measurement((rate,) * 5), policy=make_policy(tolerance_pct=20.0))

    assert words in verdict.reasons[0]


def test_noise_that_no_number_of_runs_would_mend_names_what_else_would() -> None:
    noisy = make_baseline((960.0, 1000.0, 1040.0))

    verdict = judged(make_measurement((900.0,) * 5), baseline=noisy, policy=make_policy(run_noise_pct=12.0))

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "too much noise for 3 baseline runs: 11% between launches and 0.1% between sessions" in verdict.reasons[0]
    assert (
        "no number of runs of this session would do: add other days (--update-baselines --perf-add-session), compare "
        "side by side (--perf-ab), or raise the tolerance"
    ) in verdict.reasons[0]


def test_a_quiet_case_of_a_noisy_class_is_told_how_many_runs_and_which_command() -> None:
    quiet = make_baseline((993.0, 1007.0, 1007.0, 993.0, 1000.0))

    verdict = judged(make_measurement((940.0,) * 5), baseline=quiet, policy=make_policy(run_noise_pct=4.0))

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "too much noise for 5 baseline runs: 3.3% between launches and" in verdict.reasons[0]
    assert "10 runs would do: --update-baselines --perf-runs=10" in verdict.reasons[0]


def test_more_noise_than_a_pass_can_rule_out_lets_nothing_pass() -> None:
    verdict = judged(make_measurement((1000.0,) * 5), policy=make_policy(session_noise_pct=15.0))

    assert verdict.kind is VerdictKind.INCONCLUSIVE


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
    verdict = judged(make_measurement((10_832.0,) * 3), baseline=make_baseline((12_036.0,) * 3))

    assert verdict.reasons[0] == (
        "tokens/sec/GPU is 10.0% below the baseline (10,832 against 12,036; allows 5%, finds 7.28%)"
    )


def test_more_memory_is_worse() -> None:
    runs = tuple(make_run(memory_gib=1.2) for _ in range(3))

    verdict = judged(make_measurement(runs=runs))

    assert verdict.kind is VerdictKind.REGRESSED
    assert verdict.reasons == (
        "peak memory is 20.0% above the baseline (1.2 GiB against 1 GiB; allows 5%, finds 6.01%)",
    )


def test_nothing_stored_is_no_baseline() -> None:
    verdict = judge(make_measurement(), baseline=None, machine=MACHINE, policy=POLICY, looked_in="baselines/cpu")

    assert verdict.kind is VerdictKind.NO_BASELINE
    assert verdict.reasons == ("nothing is stored for this case in baselines/cpu",)


def test_another_machine_does_not_compare() -> None:
    verdict = judged(make_measurement(), machine={**MACHINE, "cores": 64})

    assert verdict.kind is VerdictKind.NOT_COMPARABLE
    assert verdict.reasons == ("other machine: cores is 64, 2 in the baseline",)


def test_another_workload_does_not_compare_and_the_difference_is_named() -> None:
    verdict = judged(make_measurement(workload={"seq_len": 64, "layout": {"gpus": 2, "tp": 2, "dp_shard": 2}}))

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


def launched(*seconds: float, noise_pct: float | None = None, unknown: dict[str, str] | None = None) -> Measurement:
    """Return a measurement of launches that took so long to their first step, as many joules a token."""
    runs = []
    for value in seconds:
        run = make_run()
        values = {**run.metrics, "time_to_first_step_sec": value, "joules_per_token": value}
        runs.append(replace(run, metrics=values, energy_noise_pct=noise_pct))
    if unknown is not None:
        runs = [replace(make_run(), unknown=unknown)]
    return make_measurement(runs=tuple(runs))


def naming(*names: str, tolerance_pct: float = 5.0) -> VerdictPolicy:
    return replace(POLICY, tolerances={**POLICY.tolerances, **dict.fromkeys(names, tolerance_pct)})


@pytest.mark.parametrize("name", ["time_to_first_step_sec", "joules_per_token"])
def test_a_metric_of_a_launch_is_judged_where_a_tolerance_names_it(name: str) -> None:
    before = launched(10.0, 10.0, 10.0)
    baseline = make_baseline(runs=before.runs)
    after = launched(13.0, 13.0, 13.0)

    assert judged(after, baseline=baseline).kind is VerdictKind.PASSED
    verdict = judged(after, baseline=baseline, policy=naming(name))
    assert verdict.kind is VerdictKind.REGRESSED
    assert "30.0% above the baseline" in verdict.reasons[0]


def test_a_metric_that_the_baseline_lacks_fails_nothing_and_says_so() -> None:
    verdict = judged(launched(13.0), policy=naming("time_to_first_step_sec"))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == ("time to first step 13 s: no baseline for it; --update-baselines stores one",)


def test_a_judged_metric_that_is_not_known_has_its_reason_beside_the_verdict() -> None:
    measurement = launched(unknown={"joules_per_token": "no permission", "time_to_first_step_sec": "not seen"})

    verdict = judged(measurement, policy=naming("joules_per_token"))

    assert verdict.kind is VerdictKind.PASSED
    assert verdict.reasons == ("energy is not judged: no permission",)


def test_energy_of_old_readings_scatters_more_and_condemns_less() -> None:
    baseline = make_baseline(runs=launched(10.0, 10.0, 10.0, noise_pct=4.0).runs)
    policy = naming("joules_per_token", "time_to_first_step_sec")
    verdict = judged(launched(10.8, 10.8, 10.8, noise_pct=4.0), baseline=baseline, policy=policy)

    kinds = {each.metric: each.kind for each in verdict.comparisons}
    assert kinds["time_to_first_step_sec"] is VerdictKind.REGRESSED
    assert kinds["joules_per_token"] is not VerdictKind.REGRESSED
