"""Check of a collective's result, and the counts of its timed calls."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.native.rank import collective_entry
from pytest_nemoperf.native.rank.collective_entry import check_result
from pytest_nemoperf.records.collective import Collective, make_collective

CPU = torch.device("cpu")


def all_reduce() -> Collective:
    return make_collective("all_reduce", num_gpus=2, size_mib=0.001, dtype="fp32", device="cpu", timeout_sec=9.0)


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process rank 0 of two, whose other rank is played by the test."""
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)


@pytest.mark.usefixtures("first_of_two")
def test_a_sum_of_both_ranks_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_the_other(message_N: Tensor) -> None:
        message_N += 2

    monkeypatch.setattr(dist, "all_reduce", with_the_other)

    check_result(all_reduce(), device=CPU)


@pytest.mark.usefixtures("first_of_two")
def test_a_collective_that_does_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda _: None)

    with pytest.raises(RecordError, match="262 of 262 numbers of rank 0 are wrong"):
        check_result(all_reduce(), device=CPU)


@pytest.mark.parametrize(
    ("call_sec", "counts"),
    [
        pytest.param(1e-4, (50, 200), id="short calls are timed together"),
        pytest.param(0.01, (1, 100), id="a group may be one call"),
        pytest.param(5.0, (1, 10), id="long calls are timed ten times"),
    ],
)
def test_timed_calls_take_a_second_and_no_group_is_short(
    monkeypatch: pytest.MonkeyPatch, call_sec: float, counts: tuple[int, int]
) -> None:
    monkeypatch.setattr(dist, "all_reduce", lambda *_arguments, **_named: None)

    assert collective_entry._agreed_counts(call_sec, device=CPU) == counts


def test_a_sum_over_many_ranks_is_exact_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    collective = make_collective("all_reduce", num_gpus=64, size_mib=0.1, dtype="bf16", device="cpu", timeout_sec=9.0)
    terms = [1 + rank % 3 for rank in range(64)]

    def sum_one_by_one(message_N: Tensor) -> None:
        for term in terms[1:]:
            message_N += term

    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 64)
    monkeypatch.setattr(dist, "all_reduce", sum_one_by_one)

    check_result(collective, device=CPU)
