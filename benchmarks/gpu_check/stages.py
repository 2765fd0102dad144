"""Stages in order of importance: what each shows, its program, time limit and needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

STAND_INS: Final = "benchmarks/gpu_check/stand_ins/test_stand_ins.py"
"""Small cases that run in place of a GPU's on a CPU, so that a dry run takes the same paths."""

START_UP: Final = "benchmarks/gpu_check/stand_ins/test_start_up.py"

# Importing torch and starting CUDA take this long, so that a stage with less finds nothing.
_LEAST_SEC = 20.0


class SelectionError(ValueError):
    """A stage whose tests are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Perf tests of a stage, by patterns of their node ids.

    Attributes:
        wanted: Patterns; each must match a collected test.
        unwanted: Patterns of tests that are left out.
    """

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...] = ()

    def pick(self, nodeids: Sequence[str], *, stage: str) -> list[str]:
        """Return the tests that match, in the order they were collected.

        Raises:
            SelectionError: If a pattern matches none of them, or none is left.
        """
        for pattern in self.wanted:
            if not any(fnmatchcase(nodeid, pattern) for nodeid in nodeids):
                raise SelectionError(
                    f"stage {stage}: {pattern} matches none of the {len(nodeids)} collected perf tests; was a test "
                    "renamed? mend the pattern in benchmarks/gpu_check/stages.py"
                )
        picked = []
        for nodeid in nodeids:
            is_wanted = any(fnmatchcase(nodeid, pattern) for pattern in self.wanted)
            if is_wanted and not any(fnmatchcase(nodeid, pattern) for pattern in self.unwanted):
                picked.append(nodeid)
        if not picked:
            raise SelectionError(f"stage {stage}: every test that matches {self.wanted} is left out")
        return picked


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage.

    Attributes:
        name: Name on the command line, and of its folder.
        shows: Result of the stage, in a sentence.
        program: Module that is run.
        limit_sec: Wall-clock limit; what it has found until then is kept.
        expected_sec: Time on an H100. Of ``suite`` it is the table's in docs/plans.md, less what needs packages; of the
            others a sum of the launches (35 s, then 18 s in the same session) and ranks (10 s a layout) seen on one.
        goes_on: Another start goes on behind the cases that this one has finished, so that it is worth a start in less
            time than all of it takes.
        arguments: Arguments of the program; ``{folder}`` is the folder of the stage.
        distributions: Packages that it needs; without one of them the stage is not run, and says so.
        tests: Perf tests on a GPU; None for a stage without a perf session.
        stand_ins: Perf tests that a dry run takes in their place.
        least_gpus: Number of GPUs that it needs.
    """

    name: str
    shows: str
    program: str
    limit_sec: float
    expected_sec: float
    goes_on: bool = False
    arguments: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    tests: Selection | None = None
    stand_ins: Selection | None = None
    least_gpus: int = 1

    def least_sec(self, *, is_cpu: bool) -> float:
        """Return the time below which it isn't started."""
        return min(self.limit_sec, _LEAST_SEC if self.goes_on or is_cpu else self.expected_sec)

    def selection(self, *, is_cpu: bool) -> Selection | None:
        """Return the stage's tests on this kind of machine."""
        return self.stand_ins if is_cpu else self.tests


def _named(*patterns: str) -> Selection:
    return Selection(wanted=patterns)


_DENSE = _named("*::test_llama3_2_1b_on_one_gpu")
_DENSE_STAND_IN = _named(f"{STAND_INS}::test_dense")

STAGES: Final = (
    Stage(
        name="machine",
        shows="GPU, driver, libraries and settings that figures depend on; what is missing is named",
        program="gpu_check.programs.machine",
        limit_sec=45,
        expected_sec=15,
    ),
    Stage(
        name="ranks",
        shows="losses and gradient norms of every parallel axis over NCCL equal one rank's; a dead rank ends all",
        program="gpu_check.programs.ranks",
        limit_sec=150,
        expected_sec=120,
        goes_on=True,
    ),
    Stage(
        name="suite",
        shows="the nightly suite on one GPU, one launch a case: tokens/s, TFLOP/s, memory; baselines of this system",
        program="gpu_check.programs.suite",
        limit_sec=320,
        expected_sec=320,
        goes_on=True,
        tests=Selection(
            wanted=("perf_tests/test_pretrain.py::*on_one_gpu*", "perf_tests/test_*.py::test_*on_one_gpu*"),
            unwanted=("*vllm*",),
        ),
        stand_ins=_named(f"{STAND_INS}::test_dense", f"{STAND_INS}::test_mixture", f"{STAND_INS}::test_grpo"),
    ),
    Stage(
        name="memory",
        shows="memory that a dry run foretells beside the measured peak of the suite's cases, within 2%",
        program="gpu_check.programs.memory",
        limit_sec=30,
        expected_sec=20,
    ),
    Stage(
        name="kernels",
        shows="rates of kernels at model shapes: the ceilings that cases are compared with",
        program="gpu_check.programs.suite",
        limit_sec=60,
        expected_sec=40,
        goes_on=True,
        tests=_named("perf_tests/test_kernels.py::*"),
        stand_ins=_named(
            "perf_tests/test_kernels.py::test_mlp_matmul", "perf_tests/test_kernels.py::test_causal_attention"
        ),
    ),
    Stage(
        name="collectives",
        shows="bandwidth of collectives over this host's GPUs, the ceilings of communication",
        program="gpu_check.programs.suite",
        limit_sec=90,
        expected_sec=60,
        goes_on=True,
        least_gpus=4,
        tests=_named("perf_tests/test_collectives.py::*"),
        stand_ins=_named("perf_tests/test_collectives.py::test_collective?all_reduce?"),
    ),
    Stage(
        name="verdicts",
        shows="a 1B case slowed by 6% is REGRESSED and its session exits with 1; the same code again is PASSED",
        program="gpu_check.programs.verdicts",
        limit_sec=120,
        expected_sec=110,
        tests=_DENSE,
        stand_ins=_DENSE_STAND_IN,
    ),
    Stage(
        name="fast-paths",
        shows="each fast path beside the default: losses, times, and whether it may become the default",
        program="gpu_check.programs.fast_paths",
        limit_sec=150,
        expected_sec=130,
        goes_on=True,
    ),
    Stage(
        name="profile",
        shows="operators of the 1B step under the profiler sum to the step, and none is longer than it",
        program="gpu_check.programs.profile",
        limit_sec=90,
        expected_sec=40,
    ),
    Stage(
        name="energy",
        shows="the driver's energy counter moves, and cases of the suite have joules per token",
        program="gpu_check.programs.energy",
        limit_sec=15,
        expected_sec=10,
    ),
    Stage(
        name="transformers",
        shows="the native 1B step beside transformers' Llama on the same batch, and the GEMM rate at its shapes",
        program="gpu_check.programs.peers",
        limit_sec=60,
        expected_sec=40,
        distributions=("transformers",),
    ),
    Stage(
        name="start-up",
        shows="time to the first step, compile time, and time to save and load a checkpoint, of the 1B model",
        program="gpu_check.programs.suite",
        limit_sec=120,
        expected_sec=120,
        goes_on=True,
        arguments=("--option=--perf-checkpoint-dir={folder}/checkpoints",),
        tests=_named(f"{START_UP}::test_llama3_2_1b*"),
        stand_ins=_named(f"{START_UP}::test_stand_in"),
    ),
    Stage(
        name="megatron",
        shows="Megatron-Core's 1B beside the native 1B, one launch each",
        program="gpu_check.programs.suite",
        limit_sec=120,
        expected_sec=80,
        goes_on=True,
        arguments=("--option=--perf-framework=torch,megatron",),
        distributions=("megatron-core",),
        tests=_DENSE,
        stand_ins=_DENSE_STAND_IN,
    ),
    Stage(
        name="vllm",
        shows="GRPO 1B with vLLM's generation beside the native engine's",
        program="gpu_check.programs.suite",
        limit_sec=180,
        expected_sec=150,
        goes_on=True,
        distributions=("vllm",),
        tests=_named("perf_tests/test_rl.py::*grpo*on_one_gpu*"),
        stand_ins=_named(f"{STAND_INS}::test_grpo"),
    ),
)


def stages_by_name() -> Mapping[str, Stage]:
    """Return the stages by name, in order."""
    return {stage.name: stage for stage in STAGES}
