"""A project with one perf case that takes the step time in ``speed.txt``; no torch, no noise."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# pytester forgets modules that are imported first inside it: half-forgotten packages have two of each class, numpy
# can't be loaded twice, and loading rich again took a part of each session
import pynvml  # noqa: F401 (as above)
import pytest
import rich.box
import rich.console
import rich.table  # noqa: F401 (as above)
import scipy.special  # noqa: F401 (as above)

import pytest_nemoperf.plugin.hooks  # noqa: F401 (as above)
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_VARIABLE
from tests.integration.warm_guard import Guards

gc.freeze()  # pytest 8.4.0 collects garbage five times after each session inside, and walks all that was imported

STEPS_SCRIPT = """
import json, os
plan = json.load(open(os.environ["NEMOPERF_PLAN"]))
seconds = float(open(os.path.join(os.path.dirname(__file__), "speed.txt")).read())
seconds *= 1 + plan["inject_pct"] / 100
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        record = {"step": step, "step_time_sec": seconds, "tokens": plan["tokens_per_step"], "loss": 6.5,
                  "phases": {"forward": seconds / 4, "backward": seconds * 3 / 4}, "peak_memory_bytes": 2**30}
        file.write(json.dumps(record) + "\\n")
"""

PERF_TEST = """
import pathlib, sys
import pytest
from pytest_nemoperf import Layout, Recipe

RECIPE = Recipe(
    model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4, precision="fp32",
    framework="command", command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),
)

@pytest.mark.perf
def test_speed(perf):
    perf.check(RECIPE)
"""

NATIVE = """
import pytest
from pytest_nemoperf import Layout, ModelConfig, Recipe

MODEL = ModelConfig(name="speck", hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=16,
                    ffn_hidden_size=64, vocab_size=64)

@pytest.mark.perf
@pytest.mark.parametrize("layout", [Layout(gpus=1), Layout(gpus=2, {axis}=2)], ids=["one", "two"])
def test_speck(perf, layout):
    perf.check(Recipe(model=MODEL, layouts={{"cpu": layout}}, seq_len=16, global_batch_size=2, precision="fp32",
                      steps=4, warmup_steps=2, env={env}))
"""
"""Cases of the native engine: one rank, and two along an axis."""

NOISE = "perf_noise =\n    run=1%\n    session=0.1%\n    round=1%\n"
"""Lines of the ini file: step times are invented, so that they scatter little, and no more from day to day."""

CASE = "pretrain-llama-tiny-1n1g-command-fp32-single-seq64-gbs4-mbs1"

_OF_THESE_TESTS = (
    "GITHUB_ACTIONS",
    "GITHUB_STEP_SUMMARY",
    "PYTEST_XDIST_WORKER",
    "PYTEST_XDIST_WORKER_COUNT",
    "COVERAGE_PROCESS_CONFIG",  # a process that is timed under coverage is INVALID
)
"""Variables of the job that runs these tests, of their worker, and of their coverage; sessions inside have none."""


class Project:
    """A small repository with a perf test."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root = pytester.path
        pytester.makepyfile(test_speed=PERF_TEST)
        (self.root / "steps.py").write_text(STEPS_SCRIPT)
        self.set_step_time(0.1)
        pytester.makeini(f"[pytest]\nperf_runs = 1\nperf_budget = 0\n{NOISE}")

    def set_step_time(self, seconds: float) -> None:
        (self.root / "speed.txt").write_text(str(seconds))

    def edit(self, name: str, changes: dict[str, str]) -> None:
        """Replace each text that is a key in a file; it must be there."""
        text = (self.root / name).read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (self.root / name).write_text(text)

    def run(self, *args: str) -> pytest.RunResult:
        # pytest-rerunfailures leaves a socket of each session open; a thousand of them are more than a process may have
        without = () if any(arg.startswith("--reruns") for arg in args) else ("-p", "no:rerunfailures")
        return self.pytester.runpytest_inprocess(
            "-m", "perf", "--system=cpu", "-p", "no:cacheprovider", *without, *args
        )

    def run_apart(self, *args: str) -> pytest.RunResult:
        """Run in a separate process, without the patches of this one."""
        return self.pytester.runpytest_subprocess("-m", "perf", "--system=cpu", "-p", "no:cacheprovider", *args)

    @property
    def latest(self) -> Path:
        return self.root / ".nemoperf" / "latest"

    @property
    def baseline(self) -> Path:
        return self.root / "baselines" / "cpu" / f"{CASE}.json"

    def results(self) -> dict[str, Any]:
        """Return results.json of the last session."""
        data: dict[str, Any] = json.loads((self.latest / "results.json").read_text())
        return data

    def case(self) -> dict[str, Any]:
        """Return the last session's only case, as in results.json."""
        (case,) = self.results()["cases"]
        assert isinstance(case, dict)
        return case

    def stored(self) -> dict[str, Any]:
        """Return the committed baseline."""
        data: dict[str, Any] = json.loads(self.baseline.read_text())
        return data


def usage_error(result: pytest.RunResult) -> str:
    """Return the message of a session that was refused for its options."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    return result.stderr.str()


def has_text(result: pytest.RunResult, text: str) -> bool:
    """Return whether the output holds a text, wrapped and indented anyhow."""
    return "".join(text.split()) in "".join(result.stdout.str().split())


@pytest.fixture(scope="session")
def guards() -> Iterator[Guards]:
    guards = Guards()
    yield guards
    guards.end()


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, guards: Guards) -> Project:
    # locks of its own, so that a real session is not in the way
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("pytest_nemoperf.runs.passes.active_tracers", lambda: ())  # these tests may run under coverage
    monkeypatch.setattr("pytest_nemoperf.plugin.fixture.MIN_PASS_SEC", 0.05)
    for limit in ("MAX_FOREIGN_SHARE", "MAX_STEAL_SHARE"):  # other load beside the tests is no failure
        monkeypatch.setattr(f"pytest_nemoperf.records.health.{limit}", 2.0)
    monkeypatch.setattr("pytest_nemoperf.runs.step_times._MAX_RECORDED_SHARE", float("inf"))  # step times are invented
    monkeypatch.setattr("pytest_nemoperf.launchers.local.Helper", guards.helper)
    for name in _OF_THESE_TESTS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(YARDSTICK_VARIABLE, YARDSTICK_OFF)  # ranks of its own around each command, which import torch
    return Project(pytester)


@pytest.fixture
def busy_neighbour() -> Iterator[int]:
    """Share one core with a busy process that is no child of this one; yield its id."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    started = subprocess.run(
        ["sh", "-c", "setsid yes > /dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, text=True, check=True, timeout=10
    )
    pid = int(started.stdout)
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.sched_setaffinity(0, usual)
