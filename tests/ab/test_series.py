"""Rounds of one case: those that count, and outputs of one with records that can't be judged."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.ab.comparison import judge_rounds
from pytest_nemoperf.ab.round import RoundOutput
from pytest_nemoperf.ab.series import ABRounds
from pytest_nemoperf.records.step import RunOutput, StepRecord
from pytest_nemoperf.verdict.comparison import VerdictKind
from tests.ab.test_comparison import LABELS, POLICY
from tests.builders import make_plan, make_records

PLAN = make_plan()
WHY = "framework command starts its ranks by itself"


def output_of(records: list[StepRecord]) -> RunOutput:
    return RunOutput(records=tuple(records), environment={})


def rounds_of(*, why_launches: str | None, new_steps: slice = slice(None), **new: Any) -> ABRounds:
    rounds = ABRounds(PLAN, seed=7, why_launches=why_launches)
    plan = rounds.plan
    old, changed = make_records(plan), make_records(plan, **new)
    rounds.add(RoundOutput(old=output_of(old), new=output_of(changed[new_steps]), first="old"), took_sec=1.0)
    return rounds


@pytest.mark.parametrize("why_launches", [None, WHY], ids=["turns", "launches"])
@pytest.mark.parametrize("num_recorded", [0, 3, -1], ids=["none", "warm-up only", "one short"])
def test_a_side_that_records_too_few_steps_makes_the_comparison_invalid(
    num_recorded: int, why_launches: str | None
) -> None:
    rounds = rounds_of(why_launches=why_launches, new_steps=slice(num_recorded))

    old, new = rounds.measured("old"), rounds.measured("new")
    verdict = judge_rounds(
        old,
        new,
        rounds=rounds.rounds,
        policy=POLICY,
        max_rounds=20,
        labels=LABELS,
        is_by_turns=why_launches is None,
    )

    assert verdict.kind is VerdictKind.INVALID
    assert f"new (working tree): round 1: {len(rounds.outputs['new'][0].records)} of " in verdict.reasons[0]
    assert rounds.rounds[0].left_out.startswith("new: ")
    assert rounds.rounds[0].ratios == {}


@pytest.mark.parametrize("why_launches", [None, WHY], ids=["turns", "launches"])
def test_a_round_of_complete_records_has_a_ratio(why_launches: str | None) -> None:
    rounds = rounds_of(why_launches=why_launches, step_time_sec=0.2)

    assert rounds.rounds[0].left_out == ""
    assert rounds.rounds[0].ratios["tokens_per_sec_per_gpu"] == pytest.approx(0.693147, rel=1e-5)
    assert rounds.num_counted == 1
