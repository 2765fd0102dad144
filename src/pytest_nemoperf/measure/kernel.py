"""Kernel that a benchmark test times: its name, work, type of numbers and shape, as the test states them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, did_you_mean, shown
from pytest_nemoperf.json_codec import plain_mapping
from pytest_nemoperf.measure.stored_workload import BENCHMARK

_NAMED: Final = "kernel"
_WORKLOAD_KEYS: Final = (_NAMED, "dtype", "shape", "threads")
_WORK_KEYS: Final = ("flops", "bytes")
_MAX_WORK: Final = 1e24  # beyond it a call would take days; rates keep a size that figures may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """Statement of a benchmark test on the kernel that it times.

    Attributes:
        workload: Its name, type of numbers, shape and threads: what two measurements must share.
        flops: FLOPs of a call, two a multiply-add; None if it is not named by them.
        num_bytes: Bytes that a call reads and writes at least; None if it is not named by them.
    """

    workload: Mapping[str, Any]
    flops: float | None = None
    num_bytes: float | None = None


def kernel_of(extra_info: Mapping[str, Any]) -> Kernel | None:
    """Return the kernel that pytest-benchmark's ``benchmark.extra_info`` states; None without the key ``kernel``.

    Keys are ``kernel``, ``flops`` and ``bytes`` of a call, ``dtype``, ``shape``, and ``threads`` on a CPU; further keys
    are the test's own.

    Raises:
        RecipeError: If a value is impossible.
    """
    if _NAMED not in extra_info:
        for key in _WORK_KEYS:
            if key in extra_info:
                raise RecipeError(
                    f"extra_info[{key!r}] of a benchmark test needs extra_info['kernel'] beside it, e.g. 'gemm'; name "
                    "the kernel, or use another key"
                )
        return None
    name = extra_info[_NAMED]
    if not isinstance(name, str) or not name.replace("_", "").isalnum():
        raise RecipeError(f"extra_info['kernel']={shown(name)} must be a word of letters, digits and '_', e.g. 'gemm'")
    stated = {key: extra_info[key] for key in _WORKLOAD_KEYS if key in extra_info}
    workload = plain_mapping(stated, subject="extra_info")
    if not isinstance(workload.get("dtype", ""), str):
        raise RecipeError(f"extra_info['dtype']={shown(workload['dtype'])} must be a word, e.g. 'bf16'")
    threads = workload.get("threads", 1)
    if type(threads) is not int or threads < 1:
        raise RecipeError(f"extra_info['threads']={shown(threads)} must be a whole number >= 1")
    flops = _work(extra_info, key="flops")
    num_bytes = _work(extra_info, key="bytes")
    if flops is None and num_bytes is None:
        hint = ""
        for key in extra_info:
            if key not in _WORKLOAD_KEYS:
                hint = f"; {did_you_mean(key, _WORK_KEYS)}"
        raise RecipeError(f"extra_info of the kernel {name!r} has neither 'flops' nor 'bytes' of a call{hint}")
    return Kernel(workload=workload, flops=flops, num_bytes=num_bytes)


def comparable_workload(now: Mapping[str, Any], *, then: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a workload without its kernel if the other one was stored before benchmark tests could state theirs."""
    if now.get("workload") != BENCHMARK or _NAMED in then:
        return now
    return {key: value for key, value in now.items() if key not in _WORKLOAD_KEYS}


def shape_text(shape: object) -> str:
    """Return a stored shape as text: ``m=8192 k=4096 n=14336`` of a mapping, ``8192x4096`` of a list."""
    if isinstance(shape, Mapping):
        text = " ".join(f"{axis}={size}" for axis, size in shape.items())
    elif isinstance(shape, (list, tuple)):
        text = "x".join(map(str, shape))
    else:
        text = "" if shape is None else str(shape)
    return " ".join(text.split())  # one line, as a cell of a table


def _work(extra_info: Mapping[str, Any], *, key: str) -> float | None:
    """Return FLOPs or bytes of a call as a float.

    Raises:
        RecipeError: If it is no number, or one that no call has.
    """
    if key not in extra_info:
        return None
    value = extra_info[key]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 1 <= value <= _MAX_WORK:
        raise RecipeError(
            f"extra_info[{key!r}]={shown(value)} must be a number of Python's own from 1 to {_MAX_WORK:g}: "
            "those of one call"
        )
    return float(value)
