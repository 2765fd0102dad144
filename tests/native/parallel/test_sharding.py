"""Shards of a weight over one axis; test_parity compares real ranks with one process."""

from __future__ import annotations

import pytest
import torch

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.weights import ShardSpec
from pytest_nemoperf.native.parallel.sharding import AxisShard


def rows(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)[:, None].expand(-1, 2)


def test_a_matrix_is_cut_into_equal_parts() -> None:
    whole = rows(0, 1, 2, 3)

    parts = [AxisShard(split=ShardSpec(dim=0), degree=2, rank=rank).take(whole) for rank in range(2)]

    assert torch.equal(torch.cat(parts), whole)
    assert parts[0].shape == (2, 2)


def test_columns_can_be_cut_as_well() -> None:
    whole = torch.arange(8).reshape(2, 4)

    assert torch.equal(AxisShard(split=ShardSpec(dim=1), degree=2, rank=1).take(whole), torch.tensor([[2, 3], [6, 7]]))


def test_each_of_the_matrices_fused_into_one_is_cut_by_itself() -> None:
    queries_keys_values = rows(10, 11, 12, 13, 20, 21, 30, 31)

    part = AxisShard(split=ShardSpec(dim=0, sections=(4, 2, 2)), degree=2, rank=1).take(queries_keys_values)

    assert torch.equal(part, rows(12, 13, 21, 31))


def test_a_matrix_of_fewer_parts_than_ranks_is_copied() -> None:
    queries_keys_values = rows(10, 11, 12, 13, 20, 21, 30, 31)
    split = ShardSpec(dim=0, sections=(4, 2, 2), max_parts=(None, 2, 2))

    parts = [AxisShard(split=split, degree=4, rank=rank).take(queries_keys_values)[:, 0].tolist() for rank in range(4)]

    assert parts == [[10, 20, 30], [11, 20, 30], [12, 21, 31], [13, 21, 31]]


def test_a_vocabulary_is_filled_up_so_that_all_parts_are_equal() -> None:
    whole = rows(0, 1, 2)

    parts = [AxisShard(split=ShardSpec(dim=0, is_padded=True), degree=2, rank=rank).take(whole) for rank in range(2)]

    assert torch.equal(torch.cat(parts), torch.cat([whole, torch.zeros(1, 2, dtype=whole.dtype)]))


def test_a_matrix_that_can_not_be_cut_into_equal_parts_is_refused() -> None:
    with pytest.raises(PlanError, match=r"\(3, 2\) can't be cut into 2 equal parts along 3 rows"):
        AxisShard(split=ShardSpec(dim=0), degree=2, rank=0).take(rows(0, 1, 2))
