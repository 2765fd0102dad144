"""Which part of a weight a rank holds; that the parts compute the whole is in test_parity."""

from __future__ import annotations

import pytest
import torch

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.tensor_parallel import Part, check_divisible
from tests.native.tiny import tiny_config


def rows(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)[:, None].expand(-1, 2)


def test_a_matrix_is_cut_into_equal_parts() -> None:
    whole = rows(0, 1, 2, 3)

    parts = [Part(dim=0, tp=2, tp_rank=rank).take(whole) for rank in range(2)]

    assert torch.equal(torch.cat(parts), whole)
    assert parts[0].shape == (2, 2)


def test_columns_can_be_cut_as_well() -> None:
    whole = torch.arange(8).reshape(2, 4)

    assert torch.equal(Part(dim=1, tp=2, tp_rank=1).take(whole), torch.tensor([[2, 3], [6, 7]]))


def test_each_of_the_matrices_fused_into_one_is_cut_by_itself() -> None:
    queries_keys_values = rows(10, 11, 12, 13, 20, 21, 30, 31)

    part = Part(dim=0, sections=(4, 2, 2), tp=2, tp_rank=1).take(queries_keys_values)

    assert torch.equal(part, rows(12, 13, 21, 31))


@pytest.mark.parametrize(
    ("changes", "tp", "message"),
    [
        ({}, 4, "tp=4 does not divide num_kv_heads=2"),
        ({"ffn_hidden_size": 49}, 2, "tp=2 does not divide ffn_hidden_size=49"),
        ({"vocab_size": 65}, 2, "tp=2 does not divide vocab_size=65"),
    ],
)
def test_a_size_that_tp_does_not_divide_is_refused(changes: dict[str, int], tp: int, message: str) -> None:
    model = Decoder(tiny_config(**changes), seq_len=16, dtype=torch.float32)

    with pytest.raises(PlanError, match=message):
        check_divisible(model, tp=tp, sequence_parallel=False)


def test_only_sequence_parallelism_cuts_the_sequence() -> None:
    model = Decoder(tiny_config(), seq_len=15, dtype=torch.float32)

    check_divisible(model, tp=2, sequence_parallel=False)
    with pytest.raises(PlanError, match="tp=2 does not divide seq_len=15"):
        check_divisible(model, tp=2, sequence_parallel=True)
