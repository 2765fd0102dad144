from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from pytest_nemoperf.errors import WaiverError
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.waivers import WaiverEffect, apply_waiver, check_release, parse_waiver
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_run

TODAY = date(2026, 11, 23)
UNTIL_DAY = {"reason": "slow kernel upstream", "until": "2026-12-31"}
UNTIL_RELEASE = {"reason": "slow kernel upstream", "until": "1.4"}


def verdict_at(rate: float, *, memory_gib: float = 1.0) -> Verdict:
    """Return the verdict on a rate in tokens/sec/GPU against a baseline of 1,000 and 1 GiB."""
    runs = tuple(make_run(rate, memory_gib=memory_gib) for _ in range(3))
    return judge(make_measurement(runs=runs), baseline=make_baseline(), machine=MACHINE, policy=make_policy())


def ruling(
    verdict: Verdict, *, today: date = TODAY, release: str = "", waiver: dict[str, Any] = UNTIL_DAY, **more: Any
) -> WaiverEffect:
    parsed = parse_waiver({**waiver, **more}, subject="marker perf_waive of test_x")
    return apply_waiver(verdict, waiver=parsed, today=today, release=release)


def test_a_loss_is_waived_until_the_day() -> None:
    assert ruling(verdict_at(800)) == WaiverEffect(waived="waived until 2026-12-31: slow kernel upstream")
    assert ruling(verdict_at(800), today=date(2026, 12, 31)).waived


def test_a_loss_is_waived_until_the_release() -> None:
    found = ruling(verdict_at(800), waiver=UNTIL_RELEASE, release="1.4rc1")

    assert found == WaiverEffect(waived="waived until release 1.4: slow kernel upstream")


@pytest.mark.parametrize("rate", [800, 1000, 1200])
def test_an_expired_waiver_fails_whatever_the_verdict(rate: float) -> None:
    found = ruling(verdict_at(rate), today=date(2027, 1, 2))

    assert found.is_expired
    assert not found.waived
    assert found.note.startswith("the waiver expired on 2026-12-31 (2 days ago): slow kernel upstream; ")
    assert "remove perf_waive" in found.note


@pytest.mark.parametrize("release", ["1.4", "1.4.1", "1.10", "2.0.dev1"])
def test_a_waiver_ends_with_its_release(release: str) -> None:
    found = ruling(verdict_at(800), waiver=UNTIL_RELEASE, release=release)

    assert found.is_expired
    assert f"with release 1.4 (perf_release is {release})" in found.note


@pytest.mark.parametrize("rate", [1000, 1200])
def test_a_waiver_that_is_not_needed_is_pointed_out(rate: float) -> None:
    found = ruling(verdict_at(rate))

    assert found == WaiverEffect(
        note="the waiver until 2026-12-31 is not needed, for nothing is lost now: remove perf_waive"
    )


def test_other_verdicts_are_left_alone() -> None:
    assert ruling(Verdict(kind=VerdictKind.INCONCLUSIVE, case="x")) == WaiverEffect()


@pytest.mark.parametrize(
    ("rate", "memory_gib", "problem"),
    [
        pytest.param(850, 1.0, "tokens/sec/GPU reaches 85.0% of the baseline, the floor is 90%", id="throughput"),
        pytest.param(1000, 1.2, "peak memory reaches 83.3% of the baseline, the floor is 90%", id="memory"),
    ],
)
def test_below_its_floor_a_waiver_does_not_count(rate: float, memory_gib: float, problem: str) -> None:
    found = ruling(verdict_at(rate, memory_gib=memory_gib), floor=90)

    assert (found.waived, found.is_expired) == ("", False)
    assert found.note.startswith(f"the waiver until 2026-12-31 does not cover it: {problem}")


@pytest.mark.parametrize(("loss_pct", "is_waived"), [(11.0, True), (12.0, False)])
def test_a_floor_holds_for_the_loss_by_slow_steps_too(loss_pct: float, is_waived: object) -> None:
    comparison = Comparison(
        metric="time_per_call_sec",
        baseline=1.0,
        now=1.0,
        delta_pct=0.0,
        allowed_pct=5.0,
        kind=VerdictKind.REGRESSED,
        slow_steps_loss_pct=loss_pct,
    )
    verdict = Verdict(kind=VerdictKind.REGRESSED, case="x", comparisons=(comparison,))

    assert bool(ruling(verdict, floor=90).waived) is is_waived


def test_the_arguments_of_a_waiver_make_the_same_waiver() -> None:
    for arguments in (UNTIL_DAY, {**UNTIL_RELEASE, "floor": 90.0}):
        assert parse_waiver(arguments, subject="test_x").arguments == arguments


@pytest.mark.parametrize(("rate", "memory_gib"), [(900.1, 1.0), (1000, 1.111), (920, 1.1)])
def test_down_to_its_floor_a_waiver_counts(rate: float, memory_gib: float) -> None:
    assert ruling(verdict_at(rate, memory_gib=memory_gib), floor=90).waived


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"until": "2026-12-31"}, "reason=None does not say why"),
        ({"reason": " ", "until": "2026-12-31"}, "reason=' ' does not say why"),
        ({"reason": "x"}, "until=None must be a day such as '2026-12-31' or a release"),
        ({"reason": "x", "until": "2026-02-30"}, "until='2026-02-30' is no day"),
        ({"reason": "x", "until": "31.12.2026"}, "until='31.12.2026' must be a day such as '2026-12-31'"),
        ({"reason": "x", "until": "2026.12.31"}, "until='2026.12.31' must be a day such as '2026-12-31'"),
        ({"reason": "x", "until": "31.12.2026 or so"}, "until='31.12.2026 or so' is neither a day"),
        ({"reason": "x", "until": "1" * 5000}, "until='11111111"),
        ({"reason": "x", "until": "2026-12"}, "until='2026-12' must be a day"),
        ({"reason": "x", "until": "20261231"}, "until='20261231' must be a day"),
        ({"reason": "x", "until": "1.4", "floors": 90}, "unknown argument 'floors'; did you mean floor?"),
        ({"reason": "x", "until": "1.4", "floor": 100}, "floor=100 must be a percentage"),
        ({"reason": "x", "until": "1.4", "floor": True}, "floor=True must be a percentage"),
        ({"reason": "x", "until": "1.4", "floor": float("nan")}, "floor=nan must be a percentage"),
        ({"reason": "x", "until": "1.4", "floor": "90"}, "floor='90' must be a percentage"),
    ],
)
def test_what_says_too_little_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(WaiverError, match=re.escape(f"marker perf_waive of test_x: {message}")):
        parse_waiver(arguments, subject="marker perf_waive of test_x")


def test_arguments_without_names_are_refused() -> None:
    with pytest.raises(WaiverError, match="'slow' has no name; write perf_waive"):
        parse_waiver({}, positional=["slow"], subject="marker perf_waive of test_x")


@pytest.mark.parametrize(
    ("release", "message"),
    [("", "ini perf_release, the release under test, is not set"), ("next", "perf_release = next is no version")],
)
def test_a_waiver_until_a_release_needs_the_one_under_test(release: str, message: str) -> None:
    waiver = parse_waiver(UNTIL_RELEASE, subject="test_x")

    with pytest.raises(WaiverError, match=message):
        check_release(waiver, release=release, subject="test_x")


def test_a_floor_holds_with_slow_steps_counted_that_medians_do_not_see() -> None:
    slow = replace(make_run(1000.0), num_outliers=3, slow_steps_pct=100.0)
    baseline = make_baseline(runs=(replace(make_run(1000.0), slow_steps_pct=0.0),) * 3)
    verdict = judge(make_measurement(runs=(slow,) * 2), baseline=baseline, machine=MACHINE, policy=make_policy())

    assert ruling(verdict, floor=49).waived
    assert "reaches 50.0% of the baseline, the floor is 51%" in ruling(verdict, floor=51).note
