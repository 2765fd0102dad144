"""Figures of single runs that can't belong to the baseline they are in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.baselines.far_off import MAX_RATIO, far_off_figures
from pytest_nemoperf.measure.measurement import Run
from tests.builders import make_run


def runs_with(name: str, values: Sequence[float]) -> list[Run]:
    """Return runs that differ in one metric."""
    runs = []
    for value in values:
        run = make_run()
        runs.append(replace(run, metrics={**run.metrics, name: value}))
    return runs


@pytest.mark.parametrize(
    ("values", "indices"),
    [
        pytest.param((0.3, 0.3, 1e308), [2], id="no machine has it"),
        pytest.param((1e308,), [0], id="the only run"),
        pytest.param((0.3, 1e308), [1], id="of two the impossible one"),
        pytest.param((0.3, 0.31, 3.5, 0.3, 0.29), [2], id="ten times the others"),
        pytest.param((0.3, 0.31, 0.02, 0.3, 0.29), [2], id="a tenth of the others"),
        pytest.param((3.5, 0.3), [0], id="of two the first"),
        pytest.param((0.3, 3.5, 0.3, 0.001), [3, 1], id="two, the furthest first"),
        pytest.param((0.3,), [], id="one run"),
        pytest.param((0.3, 0.6), [], id="two runs of a restless machine"),
        pytest.param((0.3, 0.3, 0.6, 0.7, 0.9), [], id="a restless machine"),
        pytest.param((), [], id="no run"),
    ],
)
def test_runs_that_are_far_off_are_found(values: Sequence[float], indices: list[int]) -> None:
    found = far_off_figures(runs_with("peak_memory_gib", values))

    assert [each.index for each in found] == indices


def test_the_figure_is_told_beside_the_others() -> None:
    (found,) = far_off_figures(runs_with("tokens_per_sec_per_gpu", (1000.0, 20.0, 1001.0, 1002.0)))

    assert found.text == (
        "tokens_per_sec_per_gpu is 20, the median of the other 3 runs is 1001; runs of one baseline are at most a "
        "factor of 10 apart"
    )


@pytest.mark.parametrize("name", ["refit_time_sec", "exposed_generation_sec", "logprob_tokens_per_sec_per_gpu"])
def test_what_is_judged_only_when_named_may_differ_by_any_factor(name: str) -> None:
    assert not list(far_off_figures(runs_with(name, (1e-4, 1e-2, 1e-3))))


def test_no_wait_lasts_for_ever() -> None:
    (found,) = far_off_figures(runs_with("exposed_generation_sec", (1e-4, 1e300)))

    assert (
        found.text
        == "exposed_generation_sec is 1e+300, that of the other run is 0.0001; no machine has more than 1e+06 s"
    )


@given(st.lists(st.floats(1.0, MAX_RATIO * 0.999), max_size=8))
def test_runs_within_the_ratio_of_each_other_are_never_far_off(values: list[float]) -> None:
    assert not list(far_off_figures(runs_with("peak_memory_gib", values)))


@given(st.lists(st.floats(0.9, 1.1), min_size=2, max_size=8), st.data())
def test_a_run_beyond_the_ratio_of_all_others_is_found(values: list[float], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(values)))
    factor = data.draw(st.floats(1.2 * MAX_RATIO, 1e300) | st.floats(1e-300, 1 / (1.2 * MAX_RATIO)))
    values.insert(index, factor)

    found = list(far_off_figures(runs_with("tokens_per_sec_per_gpu", values)))

    assert [each.index for each in found] == [index]
