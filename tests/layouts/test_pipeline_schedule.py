from __future__ import annotations

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.layouts.pipeline_schedule import bubble_fraction, num_in_flight


@pytest.mark.parametrize(
    ("changes", "num_micro_batches", "fraction"),
    [
        pytest.param({}, 8, 3 / 11, id="1f1b: (p-1)/(m+p-1)"),
        pytest.param({"vp": 2}, 8, 1.5 / 9.5, id="interleaved: a chunk's worth for each rank"),
        pytest.param({"pp_schedule": "zero_bubble"}, 8, 1 / 9, id="ZB-H1: a third"),
        pytest.param({}, 4, 3 / 7, id="as many micro-batches as stages"),
    ],
)
def test_bubbles_are_those_of_the_papers(changes: dict[str, object], num_micro_batches: int, fraction: float) -> None:
    layout = Layout(gpus=4, pp=4, **changes)  # type: ignore[arg-type]  # the table's values fit

    assert bubble_fraction(layout, num_micro_batches=num_micro_batches) == pytest.approx(fraction)


def test_without_a_pipeline_nothing_idles() -> None:
    assert bubble_fraction(Layout(gpus=4, tp=4), num_micro_batches=8) == 0


@pytest.mark.parametrize(
    ("changes", "num_micro_batches", "in_flight"),
    [
        pytest.param({}, 8, [4, 3, 2, 1], id="1f1b: one less on each rank"),
        pytest.param({}, 2, [2, 2, 2, 1], id="never more than there are"),
        pytest.param({"vp": 2}, 8, [5.5, 4.5, 3.5, 2.5], id="interleaved: (v-1)p + 2(p-1-r) + 1 chunks of v"),
        pytest.param({"pp_schedule": "zero_bubble"}, 8, [4, 4, 4, 4], id="zero bubble: as many as the first"),
        pytest.param({"vp": 2, "pp_schedule": "zero_bubble"}, 8, [4, 4, 4, 4], id="zero bubble, interleaved"),
    ],
)
def test_ranks_keep_what_runs_ahead_of_backward(
    changes: dict[str, object], num_micro_batches: int, in_flight: list[float]
) -> None:
    layout = Layout(gpus=4, pp=4, **changes)  # type: ignore[arg-type]  # as above

    kept = [num_in_flight(layout, num_micro_batches=num_micro_batches, pp_rank=rank) for rank in range(4)]

    assert kept == in_flight
