from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.results.line_figures import LineFigures, line_figures
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.side_by_side import Line
from tests.results.row_builders import make_row

RATE = "tokens_per_sec_per_gpu"
TFLOPS = "tflops_per_sec_per_gpu"


def figures_of(*rows: Row | None, metric: str = RATE) -> LineFigures:
    return line_figures(Line(label="x", rows=rows), metric=metric)


def best_of(figures: LineFigures) -> list[bool | None]:
    return [None if figure is None else figure.is_best for figure in figures.figures]


def test_a_figure_is_the_mean_with_its_runs_spread_and_ratio_to_the_first() -> None:
    figures = figures_of(make_row((96.0, 100.0, 100.0)), make_row((150.0, 150.0)))

    first, second = figures.figures
    assert first is not None
    assert second is not None
    assert (first.value, first.num_runs, first.spread_pct, first.ratio) == (98.6485, 3, 4.0, None)
    assert (second.value, second.num_runs, second.spread_pct) == (150.0, 2, 0.0)
    assert second.ratio is not None
    assert second.ratio.value == pytest.approx(150.0 / 98.6485)
    assert best_of(figures) == [False, True]


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        (RATE, (1.0, 3.0, 2.0), [False, True, False]),
        ("step_time_sec", (1.0, 3.0, 2.0), [True, False, False]),
        ("mean_response_len", (1.0, 3.0, 2.0), [False, False, False]),
        (RATE, (2.0, 2.0, 2.0), [False, False, False]),
        (RATE, (2.0, 2.0, 1.0), [True, True, False]),
    ],
    ids=["more is better", "less is better", "neither", "all equal", "two best"],
)
def test_the_best_depends_on_the_direction_of_the_metric(
    metric: str, values: tuple[float, ...], expected: list[bool]
) -> None:
    rows = [make_row(values={metric: (value,)}) for value in values]

    assert best_of(figures_of(*rows, metric=metric)) == expected


def test_a_source_without_the_row_or_the_metric_has_no_figure() -> None:
    figures = figures_of(make_row(), None, make_row(values={}))

    assert best_of(figures) == [False, None, None]


def test_without_a_first_row_there_is_no_ratio() -> None:
    figures = figures_of(None, make_row(), make_row())

    assert [figure.ratio for figure in figures.figures if figure is not None] == [None, None]


@pytest.mark.parametrize(("convention", "is_comparable"), [("a", True), ("b", False)])
def test_tflops_of_other_conventions_have_neither_best_nor_ratio(convention: str, *, is_comparable: bool) -> None:
    values: dict[str, Any] = {"values": {TFLOPS: (1.0, 1.0), RATE: (1.0, 1.0)}}
    one = make_row(flops_convention="a", **values)
    other = make_row(flops_convention=convention, values={TFLOPS: (2.0, 2.0), RATE: (2.0, 2.0)})

    tflops = figures_of(one, other, metric=TFLOPS)
    rates = figures_of(one, other)

    assert tflops.is_comparable is is_comparable
    assert best_of(tflops) == [False, is_comparable]
    assert (tflops.figures[1].ratio is not None) is is_comparable  # type: ignore[union-attr]  # both have the metric
    assert best_of(rates) == [False, True]
