from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pytest_nemoperf.baselines.baseline import Anchor, Baseline
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.updates import Action, can_append_runs, next_anchor, plan_update
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance

NOISY = make_policy(run_noise_pct=6.0)
PASSED = Verdict(kind=VerdictKind.PASSED, case="pretrain-test")


def test_what_a_passed_case_replaces_becomes_its_anchor() -> None:
    old = make_baseline((1001.0,))

    anchor = next_anchor(PASSED, old=old, new=make_baseline(), policy=make_policy())

    assert anchor is not None
    assert anchor.runs == old.runs


def test_runs_whose_flops_were_counted_by_another_formula_are_no_anchor() -> None:
    old = replace(make_baseline((1001.0,)), flops_per_token=2e9)

    assert next_anchor(PASSED, old=old, new=make_baseline(), policy=make_policy()) is None


def test_an_anchor_that_can_judge_nothing_gives_way_to_runs_that_can() -> None:
    coarse = Anchor(name="25.09", runs=make_baseline((1000.0,)).runs, provenance=make_provenance())
    old = make_baseline((1001.0,) * 10, anchor=coarse)
    policy = make_policy(run_noise_pct=1.8, memory_noise_pct=1.8)

    anchor = next_anchor(PASSED, old=old, new=make_baseline(), policy=policy)

    assert anchor is not None
    assert anchor.runs == old.runs


def test_runs_that_can_judge_nothing_become_no_anchor() -> None:
    policy = make_policy(run_noise_pct=5.0, memory_noise_pct=5.0)

    assert next_anchor(PASSED, old=make_baseline((1001.0,)), new=make_baseline(), policy=policy) is None


def test_fewer_runs_do_not_replace_more_that_are_the_same() -> None:
    old = make_baseline((1000.0,) * 5)
    new = make_baseline((980.0,))
    verdict = judge(make_measurement((980.0,)), baseline=old, machine=MACHINE, policy=make_policy())

    step = plan_update(verdict, old=old, new=new, policy=make_policy(), runs=1, is_accepted=False, is_new_only=False)

    assert verdict.kind is VerdictKind.PASSED
    assert step.action is Action.KEEP
    assert "--perf-runs=5" in step.why


def test_a_case_that_moved_from_its_anchor_alone_is_kept() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1020.0,) * 5).runs, provenance=make_provenance())
    old = make_baseline((1000.0,) * 5, anchor=anchor)
    verdict = judge(make_measurement((1000.0,) * 5), baseline=old, machine=MACHINE, policy=make_policy())

    step = plan_update(verdict, old=old, new=old, policy=make_policy(), runs=5, is_accepted=False, is_new_only=False)

    assert verdict.kind is VerdictKind.PASSED
    assert step.action is Action.KEEP


def test_a_change_without_an_interval_counts_as_moved() -> None:
    old = make_baseline((1000.0,) * 5)
    verdict = judge(make_measurement((1000.0,) * 5), baseline=old, machine=MACHINE, policy=make_policy())
    bare = replace(verdict, comparisons=tuple(replace(each, low_pct=None) for each in verdict.comparisons))

    step = plan_update(bare, old=old, new=old, policy=make_policy(), runs=5, is_accepted=False, is_new_only=False)

    assert (step.action, step.why) == (Action.WRITE, "it moved more than its noise")


def test_a_release_is_written_where_nothing_moved() -> None:
    old = make_baseline()
    verdict = judge(make_measurement(), baseline=old, machine=MACHINE, policy=make_policy())

    step = plan_update(
        verdict, old=old, new=old, policy=make_policy(), runs=1, is_accepted=False, is_new_only=False, release="1.4"
    )

    assert step.action is Action.WRITE


def refused(rates: tuple[float, ...]) -> tuple[Verdict, Baseline]:
    """Return a verdict against a baseline too noisy for the tolerance, and that baseline."""
    old = make_baseline((1000.0,))
    return judge(make_measurement(rates), baseline=old, machine=MACHINE, policy=NOISY), old


@pytest.mark.parametrize(
    ("rates", "action"),
    [
        pytest.param((995.0,) * 8, Action.WRITE, id="more-runs-without-a-certain-loss"),
        pytest.param((995.0,), Action.REFUSE, id="as-few-as-before"),
        pytest.param((830.0,) * 8, Action.REFUSE, id="a-certain-loss"),
    ],
)
def test_runs_too_few_for_the_tolerance_give_way_to_more(rates: tuple[float, ...], action: Action) -> None:
    verdict, old = refused(rates)

    step = plan_update(
        verdict, old=old, new=make_baseline(rates), policy=NOISY, runs=5, is_accepted=False, is_new_only=False
    )

    assert (step.action, "too few" in step.why) == (action, action is Action.WRITE)


@pytest.mark.parametrize(("rate", "is_added"), [(991.0, True), (960.0, False)])
def test_a_session_joins_a_short_baseline_unless_half_of_what_is_to_be_found_is_lost(
    rate: float,
    is_added: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    policy = make_policy(run_noise_pct=6.0, finds={"tokens_per_sec_per_gpu": 3.0}, max_runs=1, min_runs=1)
    old = make_baseline((1000.0,))
    verdict = judge(make_measurement((rate,)), baseline=old, machine=MACHINE, policy=policy)

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert can_append_runs(verdict, old=old, new=make_baseline((rate,)), policy=policy) is is_added


def test_a_case_that_is_refused_for_want_of_runs_names_the_command_that_stores_them() -> None:
    verdict, old = refused((995.0,))

    step = plan_update(verdict, old=old, new=old, policy=NOISY, runs=5, is_accepted=False, is_new_only=False)

    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "or with more runs that show no certain loss: --update-baselines --perf-runs=" in step.why


def test_more_runs_in_place_of_too_few_keep_what_decay_is_measured_from() -> None:
    old = make_baseline((1000.0,), anchor=Anchor(name="25.09", runs=make_baseline().runs, provenance=make_provenance()))
    rates = (995.0,) * 8
    verdict = judge(make_measurement(rates), baseline=replace(old, anchor=None), machine=MACHINE, policy=NOISY)

    anchor = next_anchor(verdict, old=old, new=make_baseline(rates), policy=NOISY)

    assert anchor == old.anchor


@pytest.mark.parametrize(("runs", "action"), [(5, Action.WRITE), (2, Action.KEEP)])
def test_fewer_runs_than_a_baseline_is_to_have_are_replaced_where_nothing_moved(runs: int, action: Action) -> None:
    old = make_baseline((1000.0,) * 2)
    new = make_baseline((1000.0,) * 5)
    verdict = judge(make_measurement((1000.0,) * 5), baseline=old, machine=MACHINE, policy=make_policy())

    step = plan_update(verdict, old=old, new=new, policy=make_policy(), runs=runs, is_accepted=False, is_new_only=False)

    assert verdict.kind is VerdictKind.PASSED
    assert step.action is action


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param((1000.0,) * 2, (1000.0,) * 5, "5 runs instead of 2 find losses of ", id="finer"),
        pytest.param(
            (1000.0,) * 4,
            (940.0, 1060.0, 960.0, 1040.0, 1000.0),
            "(tokens/sec/GPU), for they are noisier",
            id="noisier",
        ),
    ],
)
def test_more_runs_are_said_to_find_more_only_where_they_do(
    old: tuple[float, ...], new: tuple[float, ...], words: str
) -> None:
    verdict = judge(make_measurement((1000.0,) * 5), baseline=make_baseline(old), machine=MACHINE, policy=make_policy())

    decision = plan_update(
        verdict,
        old=make_baseline(old),
        new=make_baseline(new),
        policy=make_policy(),
        runs=5,
        is_accepted=False,
        is_new_only=False,
    )

    assert decision.action is Action.WRITE
    assert words in decision.why
    now, then = re.findall(r"([\d.]+)%", decision.why)
    assert (float(now) > float(then)) == ("noisier" in decision.why)
