"""Collectives: names, sizes, factors of nccl-tests."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.json_codec import from_json, to_json
from pytest_nemoperf.records.collective import Collective, CollectiveKind, make_collective


def make(**changes: Any) -> Collective:
    values: dict[str, Any] = {
        "kind": "all_reduce",
        "num_gpus": 8,
        "size_mib": 512,
        "dtype": "bf16",
        "device": "cuda",
        "timeout_sec": 60.0,
    }
    values |= changes
    return make_collective(values.pop("kind"), **values)


# https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md: 2(n-1)/n, (n-1)/n and 1
@pytest.mark.parametrize(
    ("kind", "factor"),
    [("all_reduce", 1.75), ("all_gather", 0.875), ("reduce_scatter", 0.875), ("all_to_all", 0.875), ("send_recv", 1.0)],
)
def test_the_bus_factor_is_that_of_nccl_tests(kind: str, factor: float) -> None:
    assert make(kind=kind).bus_factor == factor


def test_every_kind_has_a_factor() -> None:
    assert all(make(kind=kind).bus_factor > 0 for kind in CollectiveKind)


def test_a_case_names_kind_ranks_numbers_and_size() -> None:
    assert make().case == "collective-all_reduce-1n8g-bf16-512mib"
    assert make(num_gpus=3, size_mib=1, dtype="fp32").case == "collective-all_reduce-1n3g-fp32-1048572b"


def test_a_message_is_rounded_down_to_equal_parts_of_whole_numbers() -> None:
    collective = make(num_gpus=3, size_mib=1, dtype="fp32")

    assert collective.size_bytes == 1048572
    assert collective.num_items % 3 == 0


def test_a_collective_survives_its_file() -> None:
    collective = make(inject_pct=5.0)

    assert from_json(Collective, to_json(collective), subject="collective") == collective


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "allreduce"}, "unknown collective 'allreduce'; did you mean all_reduce"),
        ({"dtype": "bf61"}, "dtype='bf61' of a collective is unknown; did you mean bf16"),
        ({"dtype": ["bf16"]}, r"dtype=\['bf16'\] of a collective is unknown"),
        ({"size_mib": 0}, "size_mib=0 of a collective must be above 0"),
        ({"size_mib": True}, "size_mib=True of a collective must be above 0"),
        ({"size_mib": 1e9}, "size_mib=1000000000.0 of a collective must be above 0 and at most 65,536"),
        ({"size_mib": 1e-6}, "is less than one number of bf16 for each"),
    ],
)
def test_an_impossible_collective_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make(**changes)


@pytest.mark.parametrize("num_gpus", [1, 0, 2.0, True, 65, 2**60])
def test_a_collective_has_the_ranks_of_a_node(num_gpus: Any) -> None:
    with pytest.raises(PlanError, match="must be a whole number >= 2 and at most 64"):
        make(num_gpus=num_gpus)
