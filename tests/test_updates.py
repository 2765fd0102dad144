from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.updates import next_anchor
from pytest_nemoperf.verdict import Verdict
from tests.builders import make_baseline

PASSED = Verdict(kind=VerdictKind.PASSED, case="pretrain-test")


def test_what_a_passed_case_replaces_becomes_its_anchor() -> None:
    old = make_baseline((1001.0,))

    anchor = next_anchor(PASSED, old=old, new=make_baseline(), release="")

    assert anchor is not None
    assert anchor.runs == old.runs


def test_runs_whose_flops_were_counted_by_another_formula_are_no_anchor() -> None:
    old = replace(make_baseline((1001.0,)), flops_per_token=2e9)

    assert next_anchor(PASSED, old=old, new=make_baseline(), release="") is None
