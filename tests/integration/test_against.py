"""--perf-against=published: cases are judged by rows of published pages, and nothing is stored."""

from __future__ import annotations

import pytest

from pytest_nemoperf.machine import identity
from pytest_nemoperf.machine.identity import Devices
from tests.integration.conftest import Project

AGAINST = "--perf-against=published"
TOKENS_PER_STEP = 128 * 8192
PRINTED = 14451.0  # LLAMA3_8B, FP8-CS, 8 GPUs of DGX-H100: row pt0281 of Megatron-Bridge 25.11
TEST = """
import pathlib, sys
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
@pytest.mark.parametrize("mbs", [1, 2])
def test_promised(perf, mbs):
    perf.check(Recipe(
        model="llama3-8b", layouts={"h100": Layout(gpus=8, dp_shard=8)}, seq_len=8192, global_batch_size=128,
        micro_batch_size=mbs, precision="fp8_cs", framework="command", flops_convention="megatron-bridge-25.09",
        command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),
    ))
"""


@pytest.fixture
def h100s(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on a machine with eight H100s, as far as the session can tell."""
    names = ("NVIDIA H100 80GB HBM3",) * 8
    devices = Devices(kind="cuda", names=names, memory_bytes=(80 * 2**30,) * 8)
    monkeypatch.setattr(identity, "detect_devices", lambda: devices)
    project.pytester.makepyfile(test_speed=TEST)
    project.pytester.makeini("[pytest]\nperf_runs = 1\n")
    return project


def run(project: Project, *args: str, rate: float = PRINTED, select: str = "1]") -> pytest.RunResult:
    """Run the test at so many tokens/sec/GPU."""
    project.set_step_time(TOKENS_PER_STEP / (8 * rate))
    return project.pytester.runpytest_inprocess(
        "-m", "perf", "--system=h100", "-p", "no:cacheprovider", "-p", "no:rerunfailures", "-k", select, *args
    )
