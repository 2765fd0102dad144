"""Profiles say what each operator takes of a step; two of them tell which operators take more than before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pytest_nemoperf.provenance import Provenance

PROFILE_SCHEMA_VERSION: Final = 1
PROFILE_FILE: Final = "profile.json"
TRACE_GLOB: Final = "trace-rank*.json.gz"
OUTSIDE: Final[Mapping[str, str]] = {"cpu": "(outside operators)", "cuda": "(device idle)"}
"""What stands for the time in which nothing of a kind of device's own ran: Python, waiting, a sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """What one operator takes of a step.

    Attributes:
        calls_per_step: Median over the profiled steps; 0 for what is no call, such as the device's idle time.
        self_sec_per_step: Median time without the operators it calls: on the device (CUDA), else on the CPU.
    """

    calls_per_step: float
    self_sec_per_step: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RankProfile:
    """What one rank saw of its profiled steps.

    Attributes:
        step_time_sec: Median wall time of a step, under the profiler.
        operators: By name.
    """

    step_time_sec: float
    operators: Mapping[str, Operator]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What the operators of a case took, under the profiler: rank 0 writes it as ``profile.json``.

    Attributes:
        case: Case id.
        system: System name.
        device: ``cuda``: times are of kernels; ``cpu``: times are of the CPU.
        num_steps: Profiled steps, after the warm-up.
        num_ranks: Ranks that were profiled: all of the run.
        step_time_sec: Median wall time of a step under the profiler, on the slowest rank.
        operators: By name, each on the rank where it took most.
        machine: Key of the machine; empty until it is stored.
        workload: What was run, as plain data; empty until it is stored.
        provenance: When, from which commit, with which versions; None until it is stored.
    """

    case: str
    system: str
    device: Literal["cuda", "cpu"]
    num_steps: int
    num_ranks: int
    step_time_sec: float
    operators: Mapping[str, Operator]
    machine: Mapping[str, str | int] = field(default_factory=dict)
    workload: Mapping[str, Any] = field(default_factory=dict)
    provenance: Provenance | None = None
    schema_version: Literal[1] = PROFILE_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseProfile:
    """What --perf-profile found out about one case.

    Attributes:
        now: This session's profile; None if there is none.
        then: The stored one; None if there is none that compares.
        problem: Why now or then is missing; empty if neither is.
        traces: Files for Perfetto, by rank.
        store_command: Shell command that stores a profile with the baseline; empty where it would not help.
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
        name: Of the operator.
        then: In the stored profile; None if the operator is new.
        now: None if the operator is gone.
    """

    name: str
    then: Operator | None
    now: Operator | None

    @property
    def has_other_calls(self) -> bool:
        """Whether it is called more or less often: a fact without noise."""
        return _calls(self.now) != _calls(self.then)

    @property
    def added_sec(self) -> float:
        """Seconds a step that it takes more now; negative if it takes less."""
        return _self_sec(self.now) - _self_sec(self.then)


def merge_ranks(ranks: Sequence[RankProfile]) -> RankProfile:
    """Return one profile of all ranks: of each operator the most that any of them spends on it.

    The most and not the mean: what one pipeline stage alone does, or a group of ranks that generates, keeps its
    size; and not one rank's: ranks of different parts of the model run different operators.
    """
    names = sorted({name for rank in ranks for name in rank.operators})
    return RankProfile(
        step_time_sec=max(rank.step_time_sec for rank in ranks),
        operators={name: _most([rank.operators[name] for rank in ranks if name in rank.operators]) for name in names},
    )


def compare_operators(now: Mapping[str, Operator], *, then: Mapping[str, Operator]) -> tuple[OperatorChange, ...]:
    """Return every operator of two profiles, what adds most to a step first."""
    changes = [OperatorChange(name=name, then=then.get(name), now=now.get(name)) for name in {**then, **now}]
    return tuple(sorted(changes, key=lambda change: (-change.added_sec, change.name)))


def _most(operators: Sequence[Operator]) -> Operator:
    return Operator(
        calls_per_step=max(operator.calls_per_step for operator in operators),
        self_sec_per_step=max(operator.self_sec_per_step for operator in operators),
    )


def _calls(operator: Operator | None) -> float:
    return 0.0 if operator is None else operator.calls_per_step


def _self_sec(operator: Operator | None) -> float:
    return 0.0 if operator is None else operator.self_sec_per_step
