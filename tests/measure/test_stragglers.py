from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.stragglers import (
    MARGIN_PCT,
    Straggler,
    StragglerEvidence,
    find_straggler,
    is_slowdown_uniform,
)
from tests.builders import make_run

EVEN = (1.0, 1.0, 1.0, 1.0)
SLOW = (1.0, 1.0, 1.0, 1.14)


def runs(*busy: Sequence[float], hosts: Sequence[str] = ()) -> list[Run]:
    return [replace(make_run(), rank_busy_sec=tuple(each), hosts=tuple(hosts)) for each in busy]


def test_a_rank_that_works_longer_in_every_run_is_named() -> None:
    found = find_straggler(runs(SLOW, SLOW, SLOW, hosts=["x"] * 4), baseline=runs(EVEN, EVEN))

    assert found is not None
    assert replace(found, excess_pct=round(found.excess_pct, 6)) == Straggler(
        ranks=(3,), host="x", is_whole_host=False, evidence=StragglerEvidence.WORK, excess_pct=14.0, num_runs=3
    )


def test_a_rank_that_was_slow_before_is_not_what_changed() -> None:
    assert find_straggler(runs(SLOW, SLOW), baseline=runs(SLOW, SLOW)) is None


def test_stages_that_do_different_work_are_compared_with_themselves() -> None:
    now = (1.0, 1.0, 2.0, 2.4)

    found = find_straggler(runs(now, now), baseline=runs((1.0, 1.0, 2.0, 2.0)), num_stages=2)

    assert found is not None
    assert found.ranks == (3,)
    assert found.excess_pct == pytest.approx(20.0)


def test_without_a_baseline_only_ranks_of_the_same_stage_are_compared() -> None:
    stages = (1.0, 1.0, 2.0, 2.0)

    assert find_straggler(runs(stages, stages), num_stages=2) is None
    slow = find_straggler(runs(SLOW, SLOW), num_stages=2)
    assert slow is not None
    assert slow.ranks == (3,)


def test_without_a_baseline_one_run_proves_nothing() -> None:
    assert find_straggler(runs(SLOW)) is None


def test_a_rank_must_stand_out_beyond_what_it_did_in_the_baseline() -> None:
    noisy = runs((1.0, 1.0, 1.0, 0.9), (1.0, 1.0, 1.0, 1.0), (1.0, 1.0, 1.0, 1.12))

    assert find_straggler(runs(SLOW, SLOW), baseline=noisy) is None


def test_a_rank_that_was_slow_in_one_run_of_several_had_bad_luck() -> None:
    assert find_straggler(runs(SLOW, EVEN, EVEN), baseline=runs(EVEN)) is None


def test_one_of_many_runs_may_be_an_exception() -> None:
    found = find_straggler(runs(*[SLOW] * 4, EVEN), baseline=runs(EVEN))

    assert found is not None
    assert found.num_runs == 4


def test_all_ranks_that_slow_alike_leave_nobody_to_name() -> None:
    assert find_straggler(runs((1.2,) * 4, (1.2,) * 4), baseline=runs(EVEN)) is None


@pytest.mark.parametrize(
    ("now", "then", "alike"),
    [
        pytest.param([(1.2,) * 4] * 2, [EVEN], True, id="all slower"),
        pytest.param([SLOW, SLOW, EVEN], [EVEN], False, id="one rank in most runs, too few to name it"),
        pytest.param([SLOW, EVEN, EVEN], [EVEN], True, id="one rank in one run"),
        pytest.param([EVEN], [], False, id="no baseline"),
        pytest.param([(1.0,)], [(1.0,)], False, id="one rank"),
        pytest.param([EVEN], [()], False, id="a baseline that does not say"),
        pytest.param([(0.0,) * 4] * 2, [EVEN], False, id="no time now"),
        pytest.param([EVEN], [(0.0,) * 4], False, id="no time then"),
        pytest.param([(1.0, 0.0), (1.0, 0.0)], [(1.0, 1.0)], False, id="only one rank's time"),
    ],
)
def test_ranks_are_called_alike_only_if_that_was_seen(
    now: list[tuple[float, ...]],
    then: list[tuple[float, ...]],
    alike: bool,  # noqa: FBT001 (a parameter of the test)
) -> None:
    assert is_slowdown_uniform(runs(*now), baseline=runs(*then)) is alike


def test_a_host_is_named_if_all_its_ranks_are_slow() -> None:
    now = runs((1.0, 1.0, 1.2, 1.25), (1.0, 1.0, 1.2, 1.25), hosts=["a", "a", "b", "b"])

    found = find_straggler(now, baseline=runs(EVEN))

    assert found is not None
    assert (found.ranks, found.host, found.is_whole_host) == ((2, 3), "b", True)
    assert found.excess_pct == pytest.approx(20.0)


def test_a_gpu_at_a_lower_clock_is_named_where_all_ranks_look_equally_busy() -> None:
    then = [replace(run, sm_clock_mhz=(1980.0,) * 4) for run in runs(EVEN, EVEN)]
    now = [replace(run, sm_clock_mhz=(1980.0, 1980.0, 1650.0, 1980.0)) for run in then]

    found = find_straggler(now, baseline=then)

    assert found is not None
    assert (found.ranks, found.evidence) == ((2,), StragglerEvidence.CLOCK)
    assert found.excess_pct == pytest.approx(20.0)


@pytest.mark.parametrize(
    ("now", "then"),
    [([()], [()]), ([(1.0,)], [(1.0,)]), ([(1.0, 1.2), (1.0, 1.0, 1.0)], [])],
    ids=["not recorded", "one rank", "runs of different size"],
)
def test_what_has_no_peers_is_never_named(now: list[tuple[float, ...]], then: list[tuple[float, ...]]) -> None:
    assert find_straggler(runs(*now), baseline=runs(*then)) is None


@given(st.lists(st.floats(0.01, 10.0), min_size=2, max_size=6), st.floats(0.1, 10.0))
def test_a_change_that_hits_all_ranks_alike_names_none(times: list[float], factor: float) -> None:
    now = [each * factor for each in times]

    assert find_straggler(runs(now, now), baseline=runs(times)) is None


@given(st.integers(2, 8), st.data())
def test_whoever_is_slowed_beyond_the_margin_is_found(num_ranks: int, data: st.DataObject) -> None:
    rank = data.draw(st.integers(0, num_ranks - 1))
    times = data.draw(st.lists(st.floats(0.1, 10.0), min_size=num_ranks, max_size=num_ranks))
    now = list(times)
    now[rank] *= 1.01 + MARGIN_PCT / 100

    found = find_straggler(runs(now), baseline=runs(times))

    assert found is not None
    assert found.ranks == (rank,)
