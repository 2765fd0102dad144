"""Kinds of cases that scatter alike on a system."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pytest_nemoperf.records.machine_key import num_gpus_of


class CaseKind(StrEnum):
    """Kind of a case, by the noise that is expected of it before its baseline shows any."""

    ONE_GPU = "one_gpu"
    """Trains in one process: nothing waits for another rank."""
    SEVERAL_GPUS = "several_gpus"
    """Trains in several ranks, on one node or more."""
    RL = "rl"
    """Reinforcement learning: the processor paces much of generation."""
    CALLS = "calls"
    """Calls that a test times: a benchmark test, a loop or a collective, measured once a session in seconds."""


def kind_of(workload: Mapping[str, Any]) -> CaseKind:
    """Return the kind of a workload, as plans and baselines have it."""
    if "layout" not in workload:
        return CaseKind.CALLS
    if "rl" in workload:
        return CaseKind.RL
    return CaseKind.ONE_GPU if num_gpus_of(workload) == 1 else CaseKind.SEVERAL_GPUS
