from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.metrics import METRICS, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.limits import Limits, allowed_pct, round_limits, runs_to_pass, stored_limits
from pytest_nemoperf.verdict.sequential import loss_of_cost
from tests.builders import make_policy, make_run

METRIC = TOKENS_PER_SEC_PER_GPU
NAME = METRIC.name
FIVE_COSTS = (0.004, -0.003, 0.0, -0.005, 0.003)


def limits_of(costs: Sequence[float] = FIVE_COSTS, *, sessions: Sequence[str] = (), **changes: Any) -> Limits:
    policy = make_policy(**changes)
    rule = policy.rule(METRIC, runs=[make_run()])
    return stored_limits(costs, sessions=sessions, metric=METRIC, policy=policy, rule=rule)


def percent_of(cost: float) -> float:
    return loss_of_cost(cost, metric=METRIC)


def test_a_tolerance_is_allowed_and_noise_says_what_is_found_beyond_it() -> None:
    limits = limits_of(tolerance_pct=3.0)

    assert percent_of(limits.allowed) == pytest.approx(3.0)
    assert limits.found > limits.allowed
    assert limits.must_find == limits.found
    assert not limits.is_below_noise_floor


def test_a_loss_to_be_found_is_found_and_noise_says_what_is_allowed_below_it() -> None:
    limits = limits_of(tolerance_pct=20.0, finds={NAME: 4.0})

    assert percent_of(limits.found) == pytest.approx(4.0)
    assert 0.0 < limits.allowed < limits.found
    assert not limits.is_below_noise_floor


@given(tolerance=st.floats(1.0, 30.0))
def test_asking_for_the_loss_that_a_tolerance_finds_allows_that_tolerance(tolerance: float) -> None:
    found = percent_of(limits_of(tolerance_pct=tolerance).found)

    asked = limits_of(finds={NAME: found})

    assert percent_of(asked.allowed) == pytest.approx(tolerance)


@given(quiet=st.floats(0.05, 5.0), factor=st.floats(1.0, 10.0))
def test_more_noise_finds_no_less_and_allows_no_more(quiet: float, factor: float) -> None:
    by_tolerance = [limits_of(run_noise_pct=noise) for noise in (quiet, quiet * factor)]
    by_find = [limits_of(run_noise_pct=noise, finds={NAME: 4.0}) for noise in (quiet, quiet * factor)]

    assert by_tolerance[0].found <= by_tolerance[1].found
    assert by_tolerance[0].allowed == by_tolerance[1].allowed
    assert by_find[0].allowed >= by_find[1].allowed
    assert by_find[0].found <= by_find[1].found


def test_where_three_tolerances_are_not_found_a_pass_has_to_rule_them_out_all_the_same() -> None:
    limits = limits_of(tolerance_pct=3.0, session_noise_pct=15.0)

    assert limits.is_below_noise_floor
    assert limits.must_find == pytest.approx(3.0 * limits.allowed)
    assert limits.found > limits.must_find


def test_a_loss_to_be_found_that_the_noise_hides_leaves_nothing_allowed() -> None:
    limits = limits_of(finds={NAME: 1.0}, session_noise_pct=1.0)

    assert limits.is_below_noise_floor
    assert limits.allowed == 0.0
    assert percent_of(limits.must_find) == pytest.approx(1.0)
    assert limits.found > limits.must_find


def test_where_rounds_confirm_it_is_theirs_to_find() -> None:
    alone = limits_of(session_noise_pct=15.0)
    confirmed = limits_of(session_noise_pct=15.0, confirming_rounds=8)

    assert alone.is_below_noise_floor
    assert not confirmed.is_below_noise_floor
    assert confirmed.found < alone.found


def test_rounds_that_scatter_find_less() -> None:
    policy = make_policy()
    rule = policy.round_rule(METRIC, num_rounds=8)

    found = []
    for spread in (0.0, 0.01, 0.05):
        limits = round_limits((spread, -spread) * 3, metric=METRIC, policy=policy, rule=rule)
        found.append(limits.found)

    assert found[0] < found[1] < found[2]


def test_what_is_allowed_in_percent_is_the_tolerance_as_it_was_given() -> None:
    limits = limits_of(tolerance_pct=7.0)

    assert allowed_pct(limits, metric=METRIC, policy=make_policy(tolerance_pct=7.0)) == 7.0


def test_a_phase_allows_what_the_loss_to_be_found_of_the_step_leaves_it() -> None:
    metric = METRICS["generation_tokens_per_sec_per_gpu"]
    policy = make_policy(tolerance_pct=20.0, finds={NAME: 6.0})
    limits = stored_limits(
        FIVE_COSTS, sessions=(), metric=metric, policy=policy, rule=policy.rule(metric, runs=[make_run()])
    )

    allowed = allowed_pct(limits, metric=metric, policy=policy)

    assert allowed == pytest.approx(percent_of(limits.allowed))
    assert 0.0 < allowed < 6.0


@pytest.mark.parametrize(
    "changes", [{"run_noise_pct": 1.7}, {"finds": {NAME: 6.0}, "run_noise_pct": 1.0}], ids=["tolerance", "find"]
)
def test_as_many_runs_as_are_asked_for_lift_a_case_above_the_noise_floor(changes: dict[str, Any]) -> None:
    policy = make_policy(tolerance_pct=3.0, **changes)
    rule = policy.rule(METRIC, runs=[make_run()])

    needed = runs_to_pass((0.0,), sessions=("",), metric=METRIC, policy=policy, rule=rule)

    assert needed is not None
    scatter = 0.9 * rule.noise_pct / 100.0  # the standard deviation of a few of them is about the class's
    costs = [scatter, -scatter] * needed
    assert limits_of((0.0,), tolerance_pct=3.0, **changes).is_below_noise_floor
    assert not limits_of(costs[:needed], tolerance_pct=3.0, **changes).is_below_noise_floor
