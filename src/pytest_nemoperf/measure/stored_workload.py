"""Check of stored workloads: plain data that outlives the code that wrote it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import from_data
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.records.collective import COLLECTIVE
from pytest_nemoperf.records.figures import Size

_PARTS: Final[Mapping[str, type[Any]]] = {"model": ModelConfig, "layout": Layout, "rl": RL}
LOOP: Final = "loop"
BENCHMARK: Final = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlannedWorkload:
    """Keys of a plan's workload that reports and checks compute with; each may be missing, and others may be there."""

    workload: str = ""
    framework: str = ""
    model: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    seq_len: Size = 1
    global_batch_size: Size = 1
    micro_batch_size: Size = 1
    layout: Mapping[str, Any] = field(default_factory=dict)
    rl: Mapping[str, Any] = field(default_factory=dict)
    has_varying_lengths: bool = False
    framework_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LoopWorkload:
    """Keys that the plugin writes into a loop's workload; its test adds others."""

    name: str = ""
    num_gpus: Size = 1
    tokens_per_step: Size = 1
    has_varying_lengths: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _BenchmarkWorkload:
    """Keys that the plugin writes into a benchmark test's workload."""

    test: str = ""
    kernel: str = ""
    dtype: str = ""
    threads: Size = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _CollectiveWorkload:
    """Keys of a collective's workload that reports compute with."""

    collective: str = ""
    num_gpus: Size = 1
    size_bytes: Size = 1
    dtype: str = ""


def is_in_process(workload: Mapping[str, Any]) -> bool:
    """Return True for a stored workload without a plan: of the test process, or a collective."""
    return workload.get("workload") in (LOOP, BENCHMARK, COLLECTIVE)


def check_workload(workload: Mapping[str, Any], *, place: str) -> None:
    """Check the values of a stored workload by its kind; other keys are compared only.

    Args:
        workload: As stored.
        place: Its JSON path, for the message.

    Raises:
        RecordError: If a key that is computed with has a value of another type, or an impossible one.
    """
    kinds = {LOOP: _LoopWorkload, BENCHMARK: _BenchmarkWorkload, COLLECTIVE: _CollectiveWorkload}
    kind: type[object] = _PlannedWorkload
    name = workload.get("workload")
    if isinstance(name, str):
        kind = kinds.get(name, _PlannedWorkload)
    from_data(kind, workload, root=place)
    if kind is not _PlannedWorkload:
        return
    for key in _PARTS:
        if key in workload:
            problem = _part_problem(key, json.dumps(workload[key], sort_keys=True), place)
            if problem:
                raise RecordError(problem)


@lru_cache(maxsize=1024)
def _part_problem(key: str, text: str, place: str) -> str:
    """Return the fault of a part of a workload, as JSON text; empty for none. Many baselines have equal parts."""
    try:
        from_data(_PARTS[key], json.loads(text), root=f"{place}.{key}")
    except RecordError as exc:
        return str(exc)
    return ""
