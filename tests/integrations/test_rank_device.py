"""Rank, clock and memory of a script, as a step writer uses them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pytest_nemoperf.integrations import StepWriter
from tests.integrations.conftest import Clock, PerfRun

BeginRun = Callable[..., PerfRun]


class Cuda:
    """Stands for ``torch.cuda`` of a script that uses it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.num_waits = 0
        self.queued_sec = 0.0

    def is_initialized(self) -> bool:
        return True

    def synchronize(self) -> None:
        self.num_waits += 1
        self.clock.now += self.queued_sec
        self.queued_sec = 0.0

    def max_memory_allocated(self) -> int:
        return 3 * 2**30

    def Event(self, *, enable_timing: bool) -> CudaEvent:  # noqa: N802 (torch's name)
        assert enable_timing
        return CudaEvent(self)


class CudaEvent:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def record(self) -> None:
        self.at = self.cuda.clock.now + self.cuda.queued_sec

    def elapsed_time(self, end: CudaEvent) -> float:
        return (end.at - self.at) * 1e3


@pytest.fixture
def cuda(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    cuda = Cuda(clock)
    monkeypatch.setitem(sys.modules, "torch.cuda", cuda)
    return cuda


def test_the_device_is_waited_for_at_both_ends_and_times_its_own_phases(
    perf_run: BeginRun, clock: Clock, cuda: Cuda
) -> None:
    run = perf_run(device="cuda")
    steps = StepWriter()

    for _ in steps.over(range(100)):
        with steps.phase("forward"):
            cuda.queued_sec += 0.5  # the call returns at once

    assert cuda.num_waits == 2 * 8
    for record in run.records():
        assert (record.step_time_sec, record.phases["forward"]) == (0.5, 0.5)
        assert record.peak_memory_bytes == 3 * 2**30


def test_on_a_cpu_the_peak_is_that_of_the_process(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    with steps.step():
        pass

    assert (run.records()[0].peak_memory_bytes or 0) > 2**20


def test_a_gpu_that_the_script_has_not_used_has_no_peak(perf_run: BeginRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = perf_run(device="cuda")
    monkeypatch.setitem(sys.modules, "torch.cuda", None)
    steps = StepWriter()

    with steps.step():
        pass

    assert run.records()[0].peak_memory_bytes is None


@pytest.mark.parametrize(
    ("env", "is_written"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "3"}, False),
        ({"SLURM_PROCID": "1"}, False),
        ({"OMPI_COMM_WORLD_RANK": "1"}, False),
        ({"RANK": "0", "SLURM_PROCID": "1"}, True),
        ({"RANK": "", "PMI_RANK": "1"}, False),
    ],
)
def test_rank_0_alone_writes_and_every_rank_ends(
    perf_run: BeginRun, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], *, is_written: bool
) -> None:
    run = perf_run()
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    steps = StepWriter()

    num_batches = len(list(steps.over(range(100))))

    assert num_batches == 8
    assert run.steps_path.exists() == is_written


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_of_torch_distributed_goes_before_variables(
    perf_run: BeginRun, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    run = perf_run()
    monkeypatch.setenv("RANK", str(1 - rank))  # inherited by processes that torch.multiprocessing has spawned
    distributed = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank)
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    steps = StepWriter()

    with steps.step():
        pass

    assert run.steps_path.exists() == (rank == 0)
