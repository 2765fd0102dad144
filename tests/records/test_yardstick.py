from __future__ import annotations

import math

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.records.yardstick import Yardstick, mean_yardstick


def test_the_mean_of_two_is_geometric_part_by_part() -> None:
    before = Yardstick(matmul_sec=1.0, copy_sec=4.0, all_reduce_sec=2.0)
    after = Yardstick(matmul_sec=4.0, copy_sec=4.0, all_reduce_sec=8.0)

    assert mean_yardstick(before, after) == Yardstick(matmul_sec=2.0, copy_sec=4.0, all_reduce_sec=4.0)


def test_a_mean_has_an_all_reduce_only_if_both_have_one() -> None:
    alone = Yardstick(matmul_sec=1.0, copy_sec=1.0)
    beside_others = Yardstick(matmul_sec=1.0, copy_sec=1.0, all_reduce_sec=1.0)

    assert mean_yardstick(alone, beside_others).all_reduce_sec is None


def test_a_mean_is_stored_with_few_digits() -> None:
    times = Yardstick(matmul_sec=1 / 3, copy_sec=2 / 3)

    assert mean_yardstick(times, times) == Yardstick(matmul_sec=0.3333, copy_sec=0.6667)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e308, math.nan, math.inf])
def test_an_impossible_time_is_refused(seconds: float) -> None:
    with pytest.raises(RecordError, match=r"copy_sec=\S+ of a yardstick must be from 1e-09 to 3600 s"):
        Yardstick(matmul_sec=1.0, copy_sec=seconds)
