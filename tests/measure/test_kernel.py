"""Statements of benchmark tests on their kernels."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.measure.kernel import comparable_workload, kernel_of, shape_text

GEMM: dict[str, Any] = {"kernel": "gemm", "flops": 2e9, "dtype": "bf16", "shape": {"m": 10, "n": 20}}


def test_a_kernel_has_its_name_type_and_shape_as_workload_and_its_work_beside_them() -> None:
    kernel = kernel_of({**GEMM, "my own key": object()})

    assert kernel is not None
    assert kernel.workload == {"kernel": "gemm", "dtype": "bf16", "shape": {"m": 10, "n": 20}}
    assert (kernel.flops, kernel.num_bytes) == (2e9, None)


def test_extra_info_without_a_kernel_is_the_tests_own() -> None:
    assert kernel_of({"shape": "whatever", "note": object()}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": ""}, r"extra_info\['kernel'\]='' must be a word"),
        ({"kernel": 3}, r"extra_info\['kernel'\]=3 must be a word"),
        ({"flops": 0}, r"extra_info\['flops'\]=0 must be a number of Python's own from 1"),
        ({"flops": True}, r"extra_info\['flops'\]=True must be a number of Python's own from 1"),
        ({"bytes": float("nan")}, r"extra_info\['bytes'\]=nan must be a number of Python's own from 1"),
        ({"bytes": "many"}, r"extra_info\['bytes'\]='many' must be a number of Python's own from 1"),
        ({"flops": 2**3000}, r"extra_info\['flops'\]=10\*\*903.1 must be a number of Python's own from 1 to 1e\+24"),
        ({"flops": 1e-300}, r"extra_info\['flops'\]=1e-300 must be a number of Python's own from 1"),
        ({"dtype": 16}, r"extra_info\['dtype'\]=16 must be a word"),
        ({"threads": 0}, r"extra_info\['threads'\]=0 must be a whole number >= 1"),
        ({"shape": {"m": object()}}, "extra_info"),
    ],
)
def test_an_impossible_statement_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        kernel_of({**GEMM, **changes})


def test_a_kernel_needs_work_and_a_near_miss_is_named() -> None:
    with pytest.raises(RecipeError, match=r"neither 'flops' nor 'bytes' of a call; did you mean flops\?"):
        kernel_of({"kernel": "gemm", "flop": 3})


def test_work_needs_the_name_of_a_kernel() -> None:
    with pytest.raises(RecipeError, match=r"extra_info\['bytes'\] of a benchmark test needs extra_info\['kernel'\]"):
        kernel_of({"bytes": 3})


def test_a_workload_stored_without_a_kernel_compares_without_it() -> None:
    now = {"workload": "benchmark", "test": "t.py::t", "kernel": "gemm", "dtype": "bf16", "shape": [1]}

    assert comparable_workload(now, then={"test": "t.py::t"}) == {"workload": "benchmark", "test": "t.py::t"}
    assert comparable_workload(now, then=now) == now
    assert comparable_workload({"workload": "loop", "shape": 1}, then={}) == {"workload": "loop", "shape": 1}


@pytest.mark.parametrize(
    ("shape", "text"),
    [({"m": 8, "k": 4}, "m=8 k=4"), ([8, 4], "8x4"), ("any", "any"), (None, ""), (7, "7"), ("a\nb", "a b")],
)
def test_a_shape_is_shown(shape: object, text: str) -> None:
    assert shape_text(shape) == text
