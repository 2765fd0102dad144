"""Profiles: time of each operator per step, and the changes between two profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pytest_nemoperf.records.figures import Amount, Positive, Size
from pytest_nemoperf.records.provenance import Provenance

PROFILE_SCHEMA_VERSION: Final = 1
PROFILE_FILE: Final = "profile.json"
TRACE_GLOB: Final = "trace-rank*.json.gz"
OUTSIDE: Final[Mapping[str, str]] = {"cpu": "(outside operators)", "cuda": "(device idle)"}
"""Entry for the time without operators on a device: Python, waiting, a sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Calls and time of one operator per step.

    Attributes:
        calls_per_step: Median over the profiled steps; 0 for entries without calls, such as the device's idle time.
        self_sec_per_step: Median time without the operators it calls: on the device (CUDA), else on the CPU.
    """

    calls_per_step: Amount
    self_sec_per_step: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class RankProfile:
    """Profile of one rank.

    Attributes:
        step_time_sec: Median wall time of a step, under the profiler.
        operators: Operators by name.
    """

    step_time_sec: Positive
    operators: Mapping[str, Operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Operators of a case under the profiler; rank 0 writes it as ``profile.json``.

    Attributes:
        case: Case id.
        system: System name.
        device: ``cuda``: times are of kernels; ``cpu``: times are of the CPU.
        num_steps: Profiled steps, after the warm-up.
        num_ranks: Profiled ranks: all of the run.
        step_time_sec: Median wall time of a step under the profiler, on the slowest rank.
        operators: Operators by name, each on the rank with its longest time.
        machine: Key of the machine; empty until it is stored.
        workload: The workload as plain data; empty until it is stored.
        provenance: Date, commit and versions; None until it is stored.
    """

    case: str
    system: str
    device: Literal["cuda", "cpu"]
    num_steps: Size
    num_ranks: Size
    step_time_sec: Positive
    operators: Mapping[str, Operator]
    machine: Mapping[str, str | int] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None
    schema_version: Literal[1] = PROFILE_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseProfile:
    """Result of --perf-profile for one case.

    Attributes:
        now: This session's profile; None if there is none.
        then: The stored one; None if there is none that compares.
        problem: Reason that now or then is missing; else empty.
        traces: Files for Perfetto, by rank.
        store_command: Shell command that stores a profile with the baseline; empty if it would not help.
    """

    now: Profile | None = None
    then: Profile | None = None
    problem: str = ""
    traces: tuple[str, ...] = ()
    store_command: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorChange:
    """One operator now and in the stored profile.

    Attributes:
        name: Name of the operator.
        then: The operator in the stored profile; None if it is new.
        now: The operator in this session's profile; None if it is gone.
    """

    name: str
    then: Operator | None
    now: Operator | None

    @property
    def has_other_calls(self) -> bool:
        """It is called more or less often: a change without noise."""
        return _calls(self.now) != _calls(self.then)

    @property
    def added_sec(self) -> float:
        """Additional seconds per step; negative if it got faster."""
        return _self_sec(self.now) - _self_sec(self.then)


def merge_ranks(ranks: Sequence[RankProfile]) -> RankProfile:
    """Return one profile of all ranks, with the maximum over the ranks for each operator.

    A mean would shrink the work of a single pipeline stage or of the generating ranks, and one rank's profile would
    miss the operators of other parts of the model.
    """
    operators: dict[str, Operator] = {}
    for rank in ranks:
        for name, operator in rank.operators.items():
            most = operators.get(name, operator)
            operators[name] = Operator(
                calls_per_step=max(most.calls_per_step, operator.calls_per_step),
                self_sec_per_step=max(most.self_sec_per_step, operator.self_sec_per_step),
            )
    step_time_sec = max(rank.step_time_sec for rank in ranks)
    return RankProfile(step_time_sec=step_time_sec, operators=dict(sorted(operators.items())))


def compare_operators(now: Mapping[str, Operator], *, then: Mapping[str, Operator]) -> tuple[OperatorChange, ...]:
    """Return the change of every operator of two profiles, the largest additional time first."""
    changes = []
    for name in {**then, **now}:
        changes.append(OperatorChange(name=name, then=then.get(name), now=now.get(name)))
    changes.sort(key=lambda change: (-change.added_sec, change.name))
    return tuple(changes)


def _calls(operator: Operator | None) -> float:
    return 0.0 if operator is None else operator.calls_per_step


def _self_sec(operator: Operator | None) -> float:
    return 0.0 if operator is None else operator.self_sec_per_step
