"""--perf-confirm: what a stored baseline does not clear is compared side by side with the baseline's own commit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_nemoperf.recipes.case_kind import CaseKind
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import git_in
from tests.integration.conftest import CASE, Project, has_text, usage_error

SCRIPT = """
import json, os, pathlib
plan = json.load(open(os.environ["NEMOPERF_PLAN"]))
own = pathlib.Path(__file__).parent
seconds = float((own / "speed.txt").read_text()) * float(pathlib.Path({machine!r}).read_text())
seconds *= 1 + plan["inject_pct"] / 100
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        record = {{"step": step, "step_time_sec": seconds, "tokens": plan["tokens_per_step"], "loss": 6.5,
                  "phases": {{"forward": seconds / 4, "backward": seconds * 3 / 4}}, "peak_memory_bytes": 2**30}}
        file.write(json.dumps(record) + "\\n")
"""
"""A command whose step takes what its tree says, times what a file outside of it says of the machine."""


BUSY_IS_HEALTHY = """
from pytest_nemoperf.records import health
health.MAX_FOREIGN_SHARE = health.MAX_STEAL_SHARE = 2.0
"""
"""A conftest.py of sessions in other processes: load beside the tests is no failure."""


ONE_H100 = """
from pytest_nemoperf.machine import identity
identity.detect_devices = lambda: identity.Devices(
    kind="cuda", names=("NVIDIA H100 80GB HBM3",), memory_bytes=(80 * 2**30,), num_hidden=7, topology="NV18"
)
"""
"""A conftest.py of a host of eight GPUs, of which CUDA shows one."""

KERNEL = """
import pathlib, pytest
from pytest_nemoperf.plugin import fixture
from pytest_nemoperf.runs import clock

fixture.MIN_PASS_SEC = 0.05
now = [0.0]

def timer():
    return now[0]

def kernel():
    now[0] += 0.1 * float(pathlib.Path({machine!r}).read_text())

clock.now = timer
clock.wait = lambda seconds: now.__setitem__(0, now[0] + seconds)

@pytest.mark.perf(tolerance=15)
@pytest.mark.benchmark(timer=timer)
def test_kernel(benchmark):
    benchmark.pedantic(kernel, rounds=5)
"""
"""A benchmark test in invented time, which a busy machine does not stretch."""

COLLECTIVE = """
import pathlib, pytest
from pytest_nemoperf.records.collective import CollectiveCalls
from pytest_nemoperf.runs import collective

def launch(asked, **_named):
    seconds = 0.1 * float(pathlib.Path({machine!r}).read_text())
    calls = CollectiveCalls(times_sec=(seconds,) * 20, calls_per_group=1)
    return collective.measured_calls(asked, calls=calls, health=None)

collective.launch_collective = launch

@pytest.mark.perf
def test_ranks(perf):
    perf.collective("all_reduce", gpus={{"cpu": 2}}, size_mib=1)
"""
"""A collective whose ranks are not started: its calls take what a file outside of the tree says of the machine."""


class Bench(Project):
    """A project in git on a machine whose speed can be set, with a committed baseline of its first commit."""

    machine: Path

    def set_machine(self, factor: float) -> None:
        """Let each step take so many times as long, whatever the code."""
        self.machine.write_text(str(factor))

    def stored_verdict(self) -> str:
        """Return the kind of the last session's only case."""
        return str(self.case()["verdict"]["kind"])

    def confirmation(self) -> dict[str, object]:
        """Return the last session's only confirmation."""
        (confirmation,) = self.case()["confirmations"]
        assert isinstance(confirmation, dict)
        return confirmation

    def change_baseline(self, **provenance: object) -> None:
        """Change entries of the baseline's provenance."""
        data = self.stored()
        data["provenance"].update(provenance)
        self.baseline.write_text(json.dumps(data))


@pytest.fixture
def bench(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    bench = Bench.__new__(Bench)
    bench.__dict__.update(project.__dict__)
    bench.machine = tmp_path / "machine.txt"
    bench.set_machine(1.0)
    monkeypatch.chdir(bench.root)
    (bench.root / "steps.py").write_text(SCRIPT.format(machine=str(bench.machine)))
    (bench.root / ".gitignore").write_text(".nemoperf/\n__pycache__/\n")
    git_in(bench.root, "init", "--quiet", "--initial-branch=main")
    commit(bench)
    bench.run("--update-baselines").assert_outcomes(passed=1)
    commit(bench)
    return bench


def commit(project: Project) -> None:
    git_in(project.root, "add", ".")
    git_in(project.root, "commit", "--quiet", "--message=all")


def change_code(project: Project) -> None:
    """Change a file of the code without a change of its speed."""
    (project.root / "steps.py").write_text((project.root / "steps.py").read_text() + "# changed\n")


def test_a_slower_machine_is_no_loss_of_other_code(bench: Bench) -> None:
    change_code(bench)
    bench.set_machine(1.3)

    result = bench.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            f"perf: {CASE} is compared side by side with ???????, for its stored baseline does not clear it *",
            "perf: checking out ???????, for --perf-confirm",
            f"{CASE}: round 1: *ratio 0.0%*",
        ]
    )
    assert has_text(result, "stored baseline -23.1%; side by side with")
    assert has_text(result, "the machine is 23% slower than when it was recorded")
    assert bench.stored_verdict() == "PASSED"
    assert bench.confirmation()["kind"] == "PASSED"
    assert list((bench.root / ".nemoperf" / "ab").iterdir()) == []


def test_a_loss_of_the_code_fails_on_a_slower_machine_too(bench: Bench) -> None:
    bench.set_step_time(0.13)
    bench.set_machine(1.2)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "stored baseline -35.9%; side by side with")
    assert has_text(result, "2 rounds: -23.1%")
    assert bench.stored_verdict() == "REGRESSED"


def test_a_faster_machine_does_not_hide_a_loss(bench: Bench) -> None:
    bench.edit("tox.ini", {"session=0.1%": "session=15%"})
    bench.set_step_time(0.14)
    bench.set_machine(0.8)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "stored baseline -10.7%; side by side with")
    assert has_text(result, "2 rounds: -28.6%")


def test_a_stored_baseline_that_clears_a_case_needs_no_rounds(bench: Bench) -> None:
    change_code(bench)

    result = bench.run()

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*side by side*")
    assert bench.case()["confirmations"] == []


def test_always_compares_what_is_cleared(bench: Bench) -> None:
    change_code(bench)

    bench.run("--perf-confirm=always").assert_outcomes(passed=1)

    assert bench.confirmation()["kind"] == "PASSED"


@pytest.mark.parametrize(
    ("ini", "kind"), [("", "INCONCLUSIVE"), ("perf_fail_on_machine = true", "REGRESSED")], ids=["code", "machine"]
)
def test_equal_code_is_never_regressed_unless_machines_are_guarded(bench: Bench, ini: str, kind: str) -> None:
    (bench.root / "tox.ini").write_text((bench.root / "tox.ini").read_text() + f"\n{ini}\n")
    commit(bench)
    bench.change_baseline(git_commit=git_in(bench.root, "rev-parse", "HEAD"))
    commit(bench)  # baselines are no code
    bench.set_machine(1.3)

    result = bench.run()

    result.assert_outcomes(failed=int(kind == "REGRESSED"), passed=int(kind != "REGRESSED"))
    assert bench.stored_verdict() == kind
    assert bench.confirmation()["is_same_code"] is True
    assert has_text(result, "and so are environment and recipe")
    result.stdout.no_fnmatch_line("*round 1*")


def test_an_injected_delay_is_found_although_the_code_is_equal(bench: Bench) -> None:
    bench.run("--perf-inject=40%").assert_outcomes(failed=1)

    assert bench.stored_verdict() == "REGRESSED"
    assert bench.confirmation()["kind"] == "REGRESSED"


@pytest.mark.parametrize(
    ("provenance", "words"),
    [
        pytest.param({"git_commit": None}, "the stored runs name no commit", id="no-commit"),
        pytest.param({"git_dirty": True}, "in no commit", id="dirty"),
        pytest.param({"git_dirty": None}, "git could not tell", id="unknown"),
        pytest.param({"git_dirty": None, "source": "1 log (megatron): a.log"}, "were read from logs", id="logs"),
        pytest.param({"git_commit": "0" * 40}, "commit 0000000 is not at hand", id="shallow-clone"),
    ],
)
def test_without_the_commit_the_stored_evidence_stands(bench: Bench, provenance: dict[str, object], words: str) -> None:
    bench.change_baseline(**provenance)
    bench.set_step_time(0.14)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert bench.stored_verdict() == "REGRESSED"
    assert has_text(result, "not compared side by side")
    assert has_text(result, words)


def test_never_leaves_it_to_the_stored_baseline(bench: Bench) -> None:
    bench.set_step_time(0.14)

    result = bench.run("--perf-confirm=never")

    result.assert_outcomes(failed=1)
    assert has_text(result, "not compared side by side: --perf-confirm=never")


def test_a_commit_that_no_longer_runs_leaves_the_stored_evidence_and_its_error(bench: Bench) -> None:
    (bench.root / "steps.py").write_text("raise RuntimeError('needs an older library')\n")
    commit(bench)
    bench.change_baseline(git_commit=git_in(bench.root, "rev-parse", "HEAD"))
    (bench.root / "steps.py").write_text(SCRIPT.format(machine=str(bench.machine)))
    bench.set_step_time(0.14)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert bench.stored_verdict() == "REGRESSED"
    assert "needs an older library" in str(bench.confirmation()["problem"])


def test_a_changed_library_is_named_beside_the_part_of_the_code(bench: Bench) -> None:
    versions = {**bench.stored()["provenance"]["versions"], "numpy": "0.1"}
    bench.change_baseline(versions=versions)
    change_code(bench)
    bench.set_machine(1.3)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "came with numpy 0.1 ->")
    assert has_text(result, "code +0.0%; the rest, -23.1%,") or has_text(result, "code -0.0%; the rest, -23.1%,")
    assert bench.stored_verdict() == "REGRESSED"


def test_a_changed_library_is_judged_by_the_stored_runs_in_all_launches(bench: Bench) -> None:
    bench.edit("tox.ini", {"session=0.1%": "session=5%"})
    commit(bench)
    versions = {**bench.stored()["provenance"]["versions"], "numpy": "0.1"}
    bench.change_baseline(versions=versions, git_commit=git_in(bench.root, "rev-parse", "HEAD"))
    bench.set_machine(2.0)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert len(bench.case()["measurement"]["runs"]) == 2
    assert bench.stored_verdict() == "REGRESSED"
    assert has_text(result, "so the loss came with numpy 0.1 ->")


def test_an_equal_speed_in_another_environment_passes(bench: Bench) -> None:
    bench.edit("tox.ini", {"session=0.1%": "session=15%"})
    commit(bench)
    versions = {**bench.stored()["provenance"]["versions"], "numpy": "0.1"}
    bench.change_baseline(versions=versions, git_commit=git_in(bench.root, "rev-parse", "HEAD"))

    bench.run().assert_outcomes(passed=1)

    assert bench.stored_verdict() == "PASSED"


def test_decay_from_the_anchor_is_compared_with_the_anchors_commit(bench: Bench) -> None:
    bench.set_step_time(0.109)
    commit(bench)
    bench.run("--update-baselines").assert_outcomes(passed=1)
    assert bench.stored()["anchor"] is not None
    commit(bench)
    bench.set_step_time(0.118)

    result = bench.run()

    result.assert_outcomes(failed=1)
    assert [each["anchor"] != "" for each in bench.case()["confirmations"]][-1]
    assert has_text(result, "anchor of")
    assert has_text(result, "2 rounds: -15.3%")


def test_an_untracked_test_is_other_code(bench: Bench) -> None:
    bench.set_machine(1.3)
    (bench.root / "test_more.py").write_text("import pytest\n")

    bench.run().assert_outcomes(passed=1)

    assert bench.confirmation()["is_same_code"] is False
    assert bench.confirmation()["kind"] == "PASSED"


def test_a_limit_that_allows_no_second_round_decides_nothing(bench: Bench) -> None:
    bench.set_step_time(0.14)

    result = bench.run("--perf-confirm-limit=0.01")

    result.assert_outcomes(passed=1)
    assert bench.stored_verdict() == "INCONCLUSIVE"
    result.stdout.no_fnmatch_line("*round 2*")


def test_a_loop_is_compared_in_processes_of_its_own(bench: Bench) -> None:
    (bench.root / "test_loop.py").write_text(
        "import pathlib, time, pytest\n"
        f"MACHINE = pathlib.Path({str(bench.machine)!r})\n"
        "SPEED = pathlib.Path(__file__).with_name('speed.txt')\n"
        "@pytest.mark.perf\n"
        "def test_loop(perf):\n"
        "    with perf.measure('mine', steps=8, tokens_per_step=8) as steps:\n"
        "        for _ in steps:\n"
        "            time.sleep(float(SPEED.read_text()) / 10 * float(MACHINE.read_text()))\n"
    )
    (bench.root / "conftest.py").write_text(BUSY_IS_HEALTHY)
    commit(bench)
    bench.run("test_loop.py", "--update-baselines").assert_outcomes(passed=1)
    bench.set_step_time(0.5)  # five times as long: real sleeps, which a busy machine may double

    result = bench.run("test_loop.py")

    result.assert_outcomes(failed=1)
    assert bench.stored_verdict() == "REGRESSED"
    assert bench.confirmation()["kind"] == "REGRESSED"
    result.stdout.fnmatch_lines(["*loop-mine: round 1: *", "*loop-mine: round 2: *"])


def test_a_suspect_kernel_of_a_gpu_machine_is_compared_in_processes_of_its_own(bench: Bench) -> None:
    (bench.root / "conftest.py").write_text(BUSY_IS_HEALTHY + ONE_H100)
    (bench.root / "tox.ini").write_text("[pytest]\nperf_runs = 1\n")
    (bench.root / "test_kernel.py").write_text(KERNEL.format(machine=str(bench.machine)))
    kernel = ("-m", "perf", "--system=h100", "-p", "no:cacheprovider", "test_kernel.py")
    commit(bench)
    bench.pytester.runpytest_subprocess(*kernel, "--update-baselines").assert_outcomes(passed=1)
    commit(bench)
    change_code(bench)
    bench.set_machine(1.5)

    result = bench.pytester.runpytest_subprocess(*kernel)

    result.assert_outcomes(passed=1)
    assert bench.stored_verdict() == "PASSED"
    assert bench.confirmation()["kind"] == "PASSED"
    (comparison, *_) = bench.case()["verdict"]["comparisons"]
    assert comparison["session_noise_pct"] == pytest.approx(find_system("h100").noise_of(CaseKind.CALLS).session_pct)
    result.stdout.fnmatch_lines(["*bench-test_kernel.test_kernel is compared side by side with *", "*round 2: *"])
    assert has_text(result, "the machine is 50% slower than when it was recorded")
    (stored,) = (bench.root / "baselines" / "h100").glob("bench-*.json")
    assert json.loads(stored.read_text())["machine"] == {"device": "NVIDIA H100 80GB HBM3", "memory_gib": 80}


def test_a_collective_is_compared_side_by_side_as_a_benchmark_test_is(bench: Bench) -> None:
    (bench.root / "test_ranks.py").write_text(COLLECTIVE.format(machine=str(bench.machine)))
    ranks = ("-m", "perf", "--system=cpu", "-p", "no:cacheprovider", "--perf-confirm-limit=600", "test_ranks.py")
    commit(bench)
    bench.pytester.runpytest_subprocess(*ranks, "--update-baselines").assert_outcomes(passed=1)
    commit(bench)
    change_code(bench)
    bench.set_machine(1.5)

    result = bench.pytester.runpytest_subprocess(*ranks)

    result.assert_outcomes(passed=1)
    assert bench.confirmation()["kind"] == "PASSED"
    result.stdout.fnmatch_lines(["*collective-all_reduce-1n2g-fp32-1mib is compared side by side with *"])
    assert has_text(result, "the machine is 50% slower than when it was recorded")


def test_a_test_that_is_not_in_the_commit_is_named(bench: Bench) -> None:
    (bench.root / "test_loop.py").write_text(
        "import pathlib, time, pytest\n"
        "SPEED = pathlib.Path(__file__).with_name('speed.txt')\n"
        "@pytest.mark.perf\n"
        "def test_loop(perf):\n"
        "    with perf.measure('mine', steps=8, tokens_per_step=8) as steps:\n"
        "        for _ in steps:\n"
        "            time.sleep(float(SPEED.read_text()) / 10)\n"
    )
    bench.run("test_loop.py").assert_outcomes(passed=1)
    (local,) = (bench.root / ".nemoperf" / "baselines").rglob("loop-mine.json")
    data = json.loads(local.read_text())
    data["provenance"].update(git_commit=git_in(bench.root, "rev-parse", "HEAD"), git_dirty=False)
    local.write_text(json.dumps(data))
    bench.set_step_time(0.5)  # five times as long: real sleeps, which a busy machine may double

    bench.run("test_loop.py")

    assert "test_loop.py" in str(bench.confirmation()["problem"])
    assert bench.stored_verdict() in {"REGRESSED", "INCONCLUSIVE"}


def test_an_update_stores_what_only_the_machine_made_slower(bench: Bench) -> None:
    change_code(bench)
    bench.set_machine(1.3)

    bench.run("--update-baselines").assert_outcomes(passed=1)

    assert bench.stored()["runs"][0]["metrics"]["step_time_sec"] == pytest.approx(0.13)


def test_runs_of_another_session_stand_beside_the_stored_ones(bench: Bench) -> None:
    change_code(bench)
    before = bench.stored()["runs"]
    bench.set_machine(1.2)
    time.sleep(1.1)  # a session is named by its second

    bench.run("--update-baselines", "--perf-add-session").assert_outcomes(passed=1)

    runs = bench.stored()["runs"]
    assert runs[: len(before)] == before
    assert len({run["session"] for run in runs}) == 2


def test_runs_that_lost_speed_are_no_further_session(bench: Bench) -> None:
    before = bench.baseline.read_text()
    bench.set_step_time(0.14)

    result = bench.run("--update-baselines", "--perf-add-session")

    result.assert_outcomes(failed=1)
    assert has_text(result, "REGRESSED is no further session of the same speed")
    assert bench.baseline.read_text() == before


@pytest.mark.slow  # 12 s; an interrupt of --perf-ab and of a test's own process are tested always
def test_an_interrupt_ends_the_rounds_and_removes_the_checkout(bench: Bench) -> None:
    script = SCRIPT.format(machine=str(bench.machine)) + "import time; time.sleep(4.0)  # as long as its steps\n"
    (bench.root / "steps.py").write_text(script)
    (bench.root / "conftest.py").write_text(BUSY_IS_HEALTHY)
    commit(bench)
    bench.change_baseline(git_commit=git_in(bench.root, "rev-parse", "HEAD"))
    bench.set_step_time(0.14)
    words = [sys.executable, "-m", "pytest", "-m", "perf", "--system=cpu", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "checking out" in line:
                break
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        process.stdout.read()

    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert list((bench.root / ".nemoperf" / "ab").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--perf-confirm=often",), "--perf-confirm='often'"),
        (("--perf-confirm=always", "--perf-ab=main"), "side by side already"),
        (("--perf-confirm-limit=no",), "--perf-confirm-limit"),
        (("--perf-add-session",), "--update-baselines"),
    ],
)
def test_wrong_values_are_refused(project: Project, arguments: tuple[str, ...], message: str) -> None:
    assert message in usage_error(project.run(*arguments))
