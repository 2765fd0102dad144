from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.recipes.case_kind import CaseKind
from pytest_nemoperf.recipes.systems import find_system, system_catalog
from pytest_nemoperf.records.metrics import JUDGED, PEAK_MEMORY_GIB, TOKENS_PER_SEC_PER_GPU, Judged
from pytest_nemoperf.verdict.defaults import CONFIRMING_ROUNDS
from pytest_nemoperf.verdict.policy import (
    check_one_of_each,
    default_tolerances,
    parse_tolerances,
    system_policy,
    with_layer,
    with_noise,
)
from pytest_nemoperf.verdict.resolution import limits_of
from pytest_nemoperf.verdict.sequential import loss_of_cost
from tests.builders import make_policy, make_run

NAMES = [metric.name for metric in JUDGED if metric.judged is Judged.BY_DEFAULT]
SPEED = TOKENS_PER_SEC_PER_GPU.name
MEMORY = PEAK_MEMORY_GIB.name


@pytest.mark.parametrize("name", list(system_catalog()))
def test_gpus_allow_3_percent_and_a_cpu_10(name: str) -> None:
    tolerances = default_tolerances(find_system(name))

    expected = 10.0 if name == "cpu" else 3.0
    assert tolerances == dict.fromkeys(NAMES, expected)


def test_a_systems_policy_holds_its_noise() -> None:
    cpu = find_system("cpu")

    policy = system_policy(cpu)

    assert (policy.run_noise_pct, policy.memory_noise_pct) == (cpu.noise.run_pct, cpu.noise.memory_pct)
    assert (policy.session_noise_pct, policy.round_noise_pct) == (cpu.noise.session_pct, cpu.noise.round_pct)
    assert system_policy(cpu, kind=CaseKind.ONE_GPU) == policy


@pytest.mark.parametrize("name", ["h100", "h200", "b200", "b300", "gb200", "gb300", "a100"])
def test_one_gpu_is_expected_to_scatter_less_than_several_and_calls_more(name: str) -> None:
    system = find_system(name)

    one = system_policy(system, kind=CaseKind.ONE_GPU)
    several = system_policy(system, kind=CaseKind.SEVERAL_GPUS)
    calls = system_policy(system, kind=CaseKind.CALLS)

    assert several == system_policy(system) == system_policy(system, kind=CaseKind.RL)
    for noise in ("run_noise_pct", "session_noise_pct", "round_noise_pct"):
        assert getattr(one, noise) < getattr(several, noise) < getattr(calls, noise)
    assert one.memory_noise_pct == several.memory_noise_pct


@pytest.mark.parametrize(
    ("finds", "allowed", "found"),
    [
        pytest.param({}, (3.0, 3.0), (3.0, 4.5), id="by-default"),
        pytest.param({SPEED: 2.0}, (0.5, 1.5), (2.0, 2.0), id="2%"),
    ],
)
def test_a_case_of_one_gpu_holds_its_tolerance_and_finds_two_percent_if_asked(
    finds: dict[str, float], allowed: tuple[float, float], found: tuple[float, float]
) -> None:
    policy = system_policy(find_system("h100"), kind=CaseKind.ONE_GPU)
    policy = replace(policy, finds=finds, confirming_rounds=CONFIRMING_ROUNDS)

    limits = limits_of((make_run(),) * 3, metric=TOKENS_PER_SEC_PER_GPU, policy=policy)

    assert limits is not None
    for cost, (low, high) in ((limits.allowed, allowed), (limits.found, found)):
        assert low - 1e-6 <= loss_of_cost(cost, metric=TOKENS_PER_SEC_PER_GPU) <= high + 1e-6


@pytest.mark.parametrize(
    ("below", "layer", "finds"),
    [
        pytest.param({}, {}, {}, id="none"),
        pytest.param({"all": 4.0}, {}, dict.fromkeys(NAMES, 4.0), id="of-the-layer-below"),
        pytest.param({"all": 4.0}, {"finds": {"all": 6.0}}, dict.fromkeys(NAMES, 6.0), id="the-upper-wins"),
        pytest.param({"all": 4.0}, {"tolerances": {"all": 5.0}}, {}, id="a-tolerance-takes-them-back"),
        pytest.param({SPEED: 4.0}, {"tolerances": {SPEED: 5.0}}, {}, id="of-one-metric"),
        pytest.param({SPEED: 4.0}, {"tolerances": {MEMORY: 5.0}}, {SPEED: 4.0}, id="and-of-no-other"),
        pytest.param({}, {"tolerances": {"all": 5.0}, "finds": {SPEED: 4.0}}, {SPEED: 4.0}, id="one-of-all"),
        pytest.param(
            {},
            {"tolerances": {MEMORY: 5.0}, "finds": {"all": 4.0}},
            {name: 4.0 for name in NAMES if name != MEMORY},
            id="all-but-one",
        ),
    ],
)
def test_a_metric_has_a_tolerance_or_a_loss_to_be_found_by_the_nearest_layer(
    below: dict[str, float], layer: dict[str, Any], finds: dict[str, float]
) -> None:
    policy = with_layer(make_policy(), tolerances={}, finds=below)

    assert with_layer(policy, **{"tolerances": {}, **layer}).finds == finds


def test_tolerances_of_the_nearest_layer_win() -> None:
    policy = with_layer(make_policy(tolerance_pct=5.0), tolerances={"all": 4.0, MEMORY: 7.0})

    assert (policy.tolerances[SPEED], policy.tolerances[MEMORY]) == (4.0, 7.0)
    assert with_layer(policy, tolerances={MEMORY: 8.0}).tolerances == {**policy.tolerances, MEMORY: 8.0}


@pytest.mark.parametrize(
    ("tolerances", "finds", "message"),
    [
        ({"all": 3.0}, {"all": 4.0}, "both 3% allowed and 4% to be found, but one follows from the other"),
        ({MEMORY: 3.0}, {MEMORY: 4.0}, "both peak_memory_gib=3% allowed and peak_memory_gib=4% to be found"),
    ],
)
def test_both_for_one_metric_are_refused(tolerances: dict[str, float], finds: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_one_of_each(tolerances, finds=finds, subject="here")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["much"], r"here='much' is not \[METRIC=\]PCT; write e\.g\. 5% or peak_memory_gib=10"),
        (["speed=3"], "here: 'speed' is not a judged metric; known: all"),
        (["100"], "here: all=100.0 must be a percentage above 0 and below 100"),
        (["nan"], "here: all=nan must be a percentage above 0 and below 100"),
    ],
)
def test_a_percentage_that_is_none_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_tolerances(texts, subject="here")


def test_noise_is_set_by_its_kind_and_the_rest_stays() -> None:
    policy = make_policy()

    known = with_noise(policy, texts=["session=1.5%", "run = 0.2", "round=0"], subject="here")

    assert known == replace(policy, session_noise_pct=1.5, run_noise_pct=0.2, round_noise_pct=0.0)
    assert with_noise(policy, texts=["memory=3"], subject="here").memory_noise_pct == 3.0
    assert with_noise(policy, texts=[], subject="here") == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("days=1", r"here='days=1' is not KIND=PCT; known: memory, round, run, session"),
        ("sessions=1", r"here='sessions=1' is not KIND=PCT; did you mean session\?"),
        ("1.5%", r"here='1\.5%' is not KIND=PCT; known: memory, round, run, session"),
        ("run", r"here='run' is not KIND=PCT; write e\.g\. session=1\.5%"),
        ("run=little", r"here='run=little' is not KIND=PCT; write e\.g\. session=1\.5%"),
        ("run=-1", r"here='run=-1': a noise must be at least 0% and below 100%"),
        ("run=100", r"here='run=100': a noise must be at least 0% and below 100%"),
        ("run=nan", r"here='run=nan': a noise must be at least 0% and below 100%"),
    ],
)
def test_noise_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        with_noise(make_policy(), texts=[text], subject="here")


def test_memory_has_its_own_noise_and_none_between_sessions() -> None:
    policy = make_policy(session_noise_pct=3.0, memory_noise_pct=0.4)

    speed = policy.rule(TOKENS_PER_SEC_PER_GPU, runs=[make_run()])
    memory = policy.rule(PEAK_MEMORY_GIB, runs=[make_run()])

    assert (speed.noise_pct, speed.session_noise_pct) == (0.5, 3.0)
    assert (memory.noise_pct, memory.session_noise_pct) == (0.4, 0.0)


def test_drift_within_the_runs_widens_the_noise_of_speed_alone() -> None:
    restless = replace(make_run(), drift_pct=40.0)

    assert make_policy().rule(TOKENS_PER_SEC_PER_GPU, runs=[restless]).noise_pct == 20.0
    assert make_policy().rule(PEAK_MEMORY_GIB, runs=[restless]).noise_pct == 0.2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, 0.7, id="by-turns"),
        pytest.param({"is_by_turns": False}, 0.5 * math.sqrt(2.0), id="by-launches"),
        pytest.param({"least_noise_pct": 2.0}, 2.0, id="as-its-own-steps-show"),
    ],
)
def test_rounds_have_a_noise_of_their_own(changes: dict[str, Any], expected: float) -> None:
    policy = make_policy(round_noise_pct=0.7, session_noise_pct=9.0)

    rule = policy.round_rule(TOKENS_PER_SEC_PER_GPU, num_rounds=20, **changes)

    assert rule.noise_pct == pytest.approx(expected)
    assert (rule.session_noise_pct, rule.max_runs) == (0.0, 20)


def test_two_launches_screen_and_rounds_confirm_with_half_of_the_misses_each() -> None:
    policy = make_policy(confirming_rounds=8)

    screen = policy.rule(TOKENS_PER_SEC_PER_GPU, runs=[make_run()])
    rounds = policy.round_rule(TOKENS_PER_SEC_PER_GPU)

    assert (screen.max_runs, rounds.max_runs) == (2, 8)
    assert screen.beta == rounds.beta == policy.beta / 2.0
    assert make_policy(confirming_rounds=8, max_runs=1).num_launches == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerances": {}}, "tolerances={} lack tokens_per_sec_per_gpu, which metrics without a tolerance"),
        ({"tolerances": {SPEED: -5.0}}, f"tolerances: {SPEED}=-5.0 must be a percentage above 0 and below 100"),
        ({"tolerances": {SPEED: 0}}, f"tolerances: {SPEED}=0 must be a percentage above 0 and below 100"),
        ({"tolerances": {SPEED: 5.0, "speed": 1.0}}, "tolerances: 'speed' is not a judged metric"),
        ({"tolerances": {SPEED: 5.0, "all": 1.0}}, "tolerances: 'all' stands for metrics in options and recipes"),
        ({"finds": {SPEED: 100.0}}, f"finds: {SPEED}=100.0 must be a percentage above 0 and below 100"),
        ({"run_noise_pct": -1.0}, "run_noise_pct=-1.0 must be at least 0% and below 1000%"),
        ({"memory_noise_pct": math.nan}, "memory_noise_pct=nan must be at least 0%"),
        ({"alpha": 0.0}, "alpha=0.0 must be a probability below 0.5"),
        ({"beta": 0.5}, "beta=0.5 must be a probability below 0.5"),
        ({"max_runs": 0}, "max_runs=0 must be a whole number from 1 to 1,000,000"),
        ({"min_runs": 10**9}, "min_runs=1000000000 must be a whole number from 1"),
        ({"confirming_rounds": -1}, "confirming_rounds=-1 must be a whole number from 0"),
    ],
)
def test_a_policy_with_an_impossible_value_can_not_be_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}"):
        make_policy(**changes)
