from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.baseline import Anchor
from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.updates import Action, next_anchor, plan_update
from pytest_nemoperf.verdict import Verdict, judge
from tests.builders import MACHINE, make_baseline, make_measurement, make_provenance, make_terms

PASSED = Verdict(kind=VerdictKind.PASSED, case="pretrain-test")


def test_what_a_passed_case_replaces_becomes_its_anchor() -> None:
    old = make_baseline((1001.0,))

    anchor = next_anchor(PASSED, old=old, new=make_baseline(), terms=make_terms())

    assert anchor is not None
    assert anchor.runs == old.runs


def test_runs_whose_flops_were_counted_by_another_formula_are_no_anchor() -> None:
    old = replace(make_baseline((1001.0,)), flops_per_token=2e9)

    assert next_anchor(PASSED, old=old, new=make_baseline(), terms=make_terms()) is None


def test_an_anchor_that_can_judge_nothing_gives_way_to_runs_that_can() -> None:
    coarse = Anchor(name="25.09", runs=make_baseline((1000.0,)).runs, provenance=make_provenance())
    old = make_baseline((1001.0,) * 10, anchor=coarse)
    terms = make_terms(run_noise_pct=1.8, memory_noise_pct=1.8)

    anchor = next_anchor(PASSED, old=old, new=make_baseline(), terms=terms)

    assert anchor is not None
    assert anchor.runs == old.runs


def test_runs_that_can_judge_nothing_become_no_anchor() -> None:
    terms = make_terms(run_noise_pct=5.0, memory_noise_pct=5.0)

    assert next_anchor(PASSED, old=make_baseline((1001.0,)), new=make_baseline(), terms=terms) is None


def test_fewer_runs_do_not_replace_more_that_are_the_same() -> None:
    old, new = make_baseline((1000.0,) * 5), make_baseline((980.0,))
    verdict = judge(make_measurement((980.0,)), baseline=old, machine=MACHINE, terms=make_terms())

    step = plan_update(verdict, old=old, new=new, terms=make_terms(), is_accepted=False, is_new_only=False)

    assert verdict.kind is VerdictKind.PASSED
    assert step.action is Action.KEEP
    assert "--perf-runs=5" in step.why


def test_a_release_is_written_where_nothing_moved() -> None:
    old = make_baseline()
    verdict = judge(make_measurement(), baseline=old, machine=MACHINE, terms=make_terms())

    step = plan_update(
        verdict, old=old, new=old, terms=make_terms(), is_accepted=False, is_new_only=False, release="1.4"
    )

    assert step.action is Action.WRITE
