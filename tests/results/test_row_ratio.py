from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.results.row import RowKind
from pytest_nemoperf.results.row_ratio import Ratio, main_metric, row_ratio
from tests.results.row_builders import make_origin, make_row

RATE = "tokens_per_sec_per_gpu"
TFLOPS = "tflops_per_sec_per_gpu"
OTHER_SESSION: dict[str, Any] = {"sessions": ("2026-11-20T10:00:00Z",) * 3}


def ratio_of(now: Any, *, then: Any, metric: str = RATE) -> Ratio:
    ratio = row_ratio(now, then=then, metric=metric)
    assert ratio is not None
    return ratio


def width(ratio: Ratio) -> float:
    assert ratio.low is not None
    assert ratio.high is not None
    return ratio.high - ratio.low


def test_a_ratio_is_the_quotient_of_the_figures_inside_its_interval() -> None:
    then = make_row((100.0, 101.0, 99.0099))
    now = make_row((120.0, 120.0, 120.0), **OTHER_SESSION)

    ratio = ratio_of(now, then=then)

    assert ratio.value == pytest.approx(1.2)
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < 1.2 < ratio.high
    assert ratio.is_clear


@given(
    st.lists(st.floats(50.0, 200.0), min_size=2, max_size=6), st.lists(st.floats(50.0, 200.0), min_size=2, max_size=6)
)
def test_turning_the_sides_turns_the_ratio_and_its_interval(one: list[float], other: list[float]) -> None:
    first = make_row(tuple(one))
    second = make_row(tuple(other))

    there = ratio_of(second, then=first)
    back = ratio_of(first, then=second)

    assert there.value * back.value == pytest.approx(1.0)
    assert there.low * back.high == pytest.approx(1.0)  # type: ignore[operator]  # measured rows with runs have both
    assert there.high * back.low == pytest.approx(1.0)  # type: ignore[operator]  # as above


def test_sides_of_one_session_have_a_narrower_interval_than_those_of_two() -> None:
    then = make_row()

    same = ratio_of(make_row(), then=then)
    apart = ratio_of(make_row(**OTHER_SESSION), then=then)

    assert width(same) < width(apart)


def test_few_equal_runs_are_as_sure_as_their_system_usually_is() -> None:
    then = make_row((100.0, 100.0))

    ratio = ratio_of(make_row((100.0, 100.0), **OTHER_SESSION), then=then)

    assert width(ratio) > 0.02  # one percent between launches on this system, as the catalog assumes


def test_more_runs_give_a_narrower_interval() -> None:
    few = ratio_of(make_row((100.0, 101.0)), then=make_row((100.0, 101.0)))
    many = ratio_of(make_row((100.0, 101.0) * 5), then=make_row((100.0, 101.0) * 5))

    assert width(many) < width(few)


def test_a_system_that_the_catalog_does_not_know_has_the_scatter_of_the_runs_alone() -> None:
    then = make_row((100.0, 100.0, 100.0), system="mine")

    ratio = ratio_of(make_row((101.0, 101.0, 101.0), system="mine"), then=then)

    assert (ratio.low, ratio.high) == (1.01, 1.01)


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        pytest.param(make_row((100.0,)), "a single run shows no scatter", id="one run"),
        pytest.param(
            make_row((100.0,), origin=make_origin(kind=RowKind.PUBLISHED)),
            "a published value is one value, without spread",
            id="published",
        ),
    ],
)
def test_a_single_value_has_no_interval_and_says_why(now: Any, reason: str) -> None:
    ratio = ratio_of(now, then=make_row((50.0, 50.0)))

    assert ratio == Ratio(value=2.0, why_no_interval=reason)
    assert not ratio.is_clear


@pytest.mark.parametrize("values", [{}, {RATE: ()}, {RATE: (0.0,)}, {RATE: (-1.0,)}, {RATE: (float("inf"),)}])
def test_a_row_without_a_positive_figure_has_no_ratio(values: dict[str, Any]) -> None:
    assert row_ratio(make_row(values=values), then=make_row(), metric=RATE) is None
    assert row_ratio(make_row(), then=make_row(values=values), metric=RATE) is None


@pytest.mark.parametrize(
    ("one", "other", "is_compared"),
    [
        pytest.param({"flops_convention": "a"}, {"flops_convention": "a"}, True, id="same convention"),
        pytest.param({"flops_convention": "a"}, {"flops_convention": "b"}, False, id="other convention"),
        pytest.param({"flops_convention": "a"}, {}, False, id="unknown convention"),
        pytest.param({}, {}, False, id="both unknown"),
        pytest.param(
            {"flops_convention": "a", "flops_per_token": 1e9},
            {"flops_convention": "a", "flops_per_token": 2e9},
            False,
            id="same name, other formula",
        ),
        pytest.param(
            {"flops_convention": "a", "flops_per_token": 1e9},
            {"flops_convention": "a", "flops_per_token": 2e9, "seq_len": 16384},
            True,
            id="other sequence length",
        ),
        pytest.param(
            {"flops_convention": "a", "flops_per_token": 1e9},
            {"flops_convention": "a", "flops_per_token": 2e9, "model": "llama3-70b"},
            True,
            id="other model",
        ),
        pytest.param(
            {"origin": make_origin(kind=RowKind.PUBLISHED, source="page", release="1")},
            {"origin": make_origin(kind=RowKind.PUBLISHED, source="page", release="1")},
            True,
            id="one page",
        ),
        pytest.param(
            {"origin": make_origin(kind=RowKind.PUBLISHED, source="page", release="1")},
            {"origin": make_origin(kind=RowKind.PUBLISHED, source="page", release="2")},
            False,
            id="two releases of a page",
        ),
    ],
)
def test_tflops_compare_only_where_flops_are_counted_alike(
    one: dict[str, Any], other: dict[str, Any], *, is_compared: bool
) -> None:
    values = {RATE: (100.0,), TFLOPS: (10.0,)}
    then = make_row(values=values, **one)
    now = make_row(values=values, **other)

    assert (row_ratio(now, then=then, metric=TFLOPS) is not None) is is_compared
    assert row_ratio(now, then=then, metric=RATE) is not None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("step_time_sec", RATE), RATE),
        (("time_per_call_sec", "step_time_sec"), "time_per_call_sec"),
        (("step_time_sec",), "step_time_sec"),
        (("kl",), None),
    ],
)
def test_a_row_is_compared_by_its_rate_or_else_by_its_time(names: tuple[str, ...], expected: str | None) -> None:
    row = make_row(values=dict.fromkeys(names, (1.0,)))

    metric = main_metric(row)

    assert (None if metric is None else metric.name) == expected
