"""Rounds of loops and benchmark tests: both sides' pytest processes, with code and tests of their own."""

from __future__ import annotations

import importlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pytest_nemoperf.ab.comparison import judge_rounds
from pytest_nemoperf.ab.import_paths import default_paths
from pytest_nemoperf.ab.in_process import ABTestProcesses, InProcessRounds
from pytest_nemoperf.ab.source_trees import read_trees
from pytest_nemoperf.ab.worktree import ABSide, Worktree, find_revision
from pytest_nemoperf.errors import LaunchError, RevisionError
from pytest_nemoperf.machine.host_lock import HostLock
from pytest_nemoperf.process.orphans import is_alive
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.session.invocation import invocation_of
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.policy import default_tolerances
from tests.ab.test_comparison import POLICY as RECIPE_POLICY
from tests.builders import git_in

INVENTED_TIME = """
import pytest_nemoperf.plugin.fixture
from pytest_nemoperf.records import health
from pytest_nemoperf.runs import clock

now = [0.0]

def wait(seconds):
    now[0] += seconds

clock.now = lambda: now[0]
clock.wait = wait
pytest_nemoperf.plugin.fixture.MIN_PASS_SEC = 0.05
health.MAX_FOREIGN_SHARE = health.MAX_STEAL_SHARE = 2.0

def timer():
    return now[0]
"""
OPTION = """
def pytest_addoption(parser):
    parser.addoption("--size", type=int, default=1)
"""
CHECKS_A_RECIPE = """\
def test_loop(perf, pytestconfig):
    from pytest_nemoperf import Layout, Recipe

    perf.check(Recipe(model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4,
                      precision="fp32", framework="command", command=("false",)))
"""
REFUSES = """
import pytest

def pytest_collection_modifyitems():
    raise pytest.UsageError("no data")
"""
NOTES_ITS_LOADING = """
import os, pathlib
with pathlib.Path(__file__).with_name("loaded-in").open("a") as file:
    file.write(os.getcwd() + "\\n")
"""
CODE = """
from pytest_nemoperf.runs import clock

def work():
    clock.wait({seconds})
"""
TESTS = """
import pytest
from kernels import work
from invented import timer

@pytest.mark.perf
def test_loop(perf, pytestconfig):
    with perf.measure("mine", tokens_per_step=8 * pytestconfig.getoption("size")) as steps:
        for step in steps:
            work()

def test_plain():
    pass

@pytest.mark.perf
@pytest.mark.benchmark(timer=timer, min_rounds=5, max_time=0.5)
def test_call(benchmark):
    benchmark.pedantic(work, rounds=5)
"""
POLICY = replace(RECIPE_POLICY, tolerances=default_tolerances(find_system("cpu")))
BEGINS = '    with perf.measure("mine", tokens_per_step=8 * pytestconfig.getoption("size")) as'
LOOP = "perf/test_speed.py::test_loop"
CALL = "perf/test_speed.py::test_call"
CALL_CASE = "bench-perf.test_speed.test_call"


class Repository:
    """A project whose code takes 0.1 s a step in its only commit, and 0.2 s in the working tree."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.root = pytester.path
        (self.root / "src").mkdir()
        (self.root / "perf").mkdir()
        self.write("pytest.ini", "[pytest]\nfilterwarnings = error\n")
        (self.root / ".gitignore").write_text(".nemoperf/\n__pycache__/\n")
        self.write("conftest.py", OPTION)
        self.write("perf/invented.py", INVENTED_TIME)
        self.write("perf/conftest.py", "import invented")
        self.write("perf/test_speed.py", TESTS)
        self.write("src/kernels.py", CODE.format(seconds=0.1))
        git_in(self.root, "init", "--quiet", "--initial-branch=main")
        self.commit()
        self.write("src/kernels.py", CODE.format(seconds=0.2))
        self._closing: list[Callable[[], None]] = []

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text)

    def commit(self) -> None:
        git_in(self.root, "add", ".")
        git_in(self.root, "commit", "--quiet", "--message=all")

    @property
    def state_dir(self) -> Path:
        return self.root / ".nemoperf"

    def rounds(self, nodeid: str, case: str, *args: str, inject_pct: float = 0.0) -> InProcessRounds:
        """Return rounds of a case in a session with some arguments."""
        config = self.pytester.parseconfig("-m", "perf", *args)
        revision = find_revision("HEAD", root=self.root)
        worktree = Worktree(revision, parent=self.state_dir / "ab")
        self._closing.append(worktree.remove)
        checkout = worktree.add()
        old = ABSide(name="old", origin=revision.label, root=checkout, paths=default_paths(checkout))
        new = ABSide(name="new", origin="working tree", root=self.root, paths=default_paths(self.root))
        processes = ABTestProcesses(
            old,
            new,
            trees=read_trees(revision, checkout=checkout, state_dir=self.state_dir),
            invocation=invocation_of(config, system="cpu"),
        )
        self._closing.append(processes.close)
        return InProcessRounds(processes, nodeid=nodeid, case=case, seed=7, inject_pct=inject_pct)

    def add_round(self, rounds: InProcessRounds, *, timeout_sec: float = 60.0) -> None:
        folder = self.state_dir / "runs" / "session" / f"round-{len(rounds.rounds) + 1}"
        rounds.add_round(rounds.next_first(), run_dir=folder, timeout_sec=timeout_sec)

    def close(self) -> None:
        for close in reversed(self._closing):
            close()


def _restore_after(path: str, *, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore what a conftest.py of the repository may set in this process."""
    module, _, name = path.rpartition(".")
    monkeypatch.setattr(path, getattr(importlib.import_module(module), name))


@pytest.fixture
def repository(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    for name in list(os.environ):
        # under xdist pytest-benchmark measures nothing, and what is timed under coverage is INVALID
        if name.startswith(("GIT_", "PYTEST_XDIST_", "COVERAGE_")):
            monkeypatch.delenv(name)
    for name in ("plugin.fixture.MIN_PASS_SEC", "records.health.MAX_FOREIGN_SHARE", "records.health.MAX_STEAL_SHARE"):
        _restore_after(f"pytest_nemoperf.{name}", monkeypatch=monkeypatch)
    for name in ("now", "wait"):
        _restore_after(f"pytest_nemoperf.runs.clock.{name}", monkeypatch=monkeypatch)
    repository = Repository(pytester)
    yield repository
    repository.close()


@pytest.mark.parametrize(
    ("nodeid", "case", "metric"),
    [
        # test_confirm.py compares a loop always
        pytest.param(LOOP, "loop-mine", "tokens_per_sec_per_gpu", id="loop", marks=pytest.mark.slow),
        pytest.param(CALL, CALL_CASE, "time_per_call_sec", id="benchmark"),
    ],
)
def test_rounds_of_slower_code_show_its_cost_and_are_judged(
    repository: Repository, nodeid: str, case: str, metric: str
) -> None:
    rounds = repository.rounds(nodeid, case)

    for _ in range(2):
        repository.add_round(rounds)

    first, second = rounds.rounds
    old, new = rounds.measured("old"), rounds.measured("new")
    verdict = judge_rounds(
        old,
        new,
        rounds=rounds.rounds,
        policy=POLICY,
        max_rounds=2,
        labels=("old (HEAD)", "new (working tree)"),
        is_by_turns=False,
    )
    assert first.ratios[metric] == pytest.approx(math.log(2), rel=1e-5)
    assert {first.first, second.first} == {"old", "new"}
    assert first.error == pytest.approx(0.0)
    assert (len(old.runs), len(new.runs), rounds.num_counted) == (2, 2, 2)
    assert verdict.kind is VerdictKind.REGRESSED
    assert [comparison.metric for comparison in verdict.comparisons] == [metric]


def test_a_self_test_slows_the_working_tree_alone(repository: Repository) -> None:
    repository.write("src/kernels.py", CODE.format(seconds=0.1))
    rounds = repository.rounds(LOOP, "loop-mine", "--perf-inject=50%", inject_pct=50.0)

    repository.add_round(rounds)

    assert rounds.rounds[0].ratios["tokens_per_sec_per_gpu"] == pytest.approx(math.log(1.5), rel=1e-5)


def test_a_process_measures_and_leaves_nothing_in_the_project(repository: Repository) -> None:
    repository.write(
        "pytest.ini", "[pytest]\naddopts = --junitxml=report.xml --last-failed\nperf_require_verdict = 1\n"
    )
    repository.commit()
    repository.write("perf/test_speed.py", f"{TESTS}\n\n")
    (repository.state_dir).mkdir()
    rounds = repository.rounds(LOOP, "loop-mine", "--update-baselines", "--basetemp=kept", "-k", "nothing")
    (repository.root / "kept").mkdir()
    (repository.root / "kept" / "file").touch()
    before = files_of(repository.root)

    repository.add_round(rounds)

    assert rounds.num_counted == 1
    assert files_of(repository.root) - before == set()
    assert (repository.root / "kept" / "file").exists()


def test_a_process_launches_no_recipe_of_the_test(repository: Repository) -> None:
    repository.write("perf/test_speed.py", TESTS.replace("def test_loop(perf, pytestconfig):\n", CHECKS_A_RECIPE))
    repository.commit()
    repository.write("src/kernels.py", CODE.format(seconds=0.3))
    rounds = repository.rounds(LOOP, "loop-mine")

    repository.add_round(rounds)

    assert rounds.num_counted == 1


def files_of(root: Path) -> set[str]:
    """Return the files of a project, compiled modules and the session's own folders apart."""
    files = set()
    for path in root.rglob("*"):
        rel_path = path.relative_to(root)
        if path.is_file() and not {"__pycache__", ".git"}.intersection(rel_path.parts) and path.suffix != ".lock":
            files.add(str(rel_path))
    return {name for name in files if not name.startswith((".nemoperf/ab/", ".nemoperf/runs/session/"))}


def test_a_process_does_not_wait_for_the_lock_of_the_session_that_started_it(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    lock = HostLock()
    lock.acquire(report=print)
    rounds = repository.rounds(LOOP, "loop-mine")

    repository.add_round(rounds)

    lock.release()
    assert rounds.num_counted == 1


def test_a_measurement_is_kept_of_a_test_that_fails_afterwards_and_the_failure_is_the_sides_error(
    repository: Repository,
) -> None:
    rounds = repository.rounds(LOOP, "loop-mine")
    checkout = next(path for path in (repository.state_dir / "ab").iterdir() if path.is_dir())
    test = checkout / "perf" / "test_speed.py"
    test.write_text(
        TESTS.replace("            work()\n", "            work()\n    raise ValueError('no such layer')\n")
    )

    with pytest.raises(LaunchError, match=r"(?s)^old \(HEAD, .*test_loop failed there .*ValueError: no such layer"):
        rounds.add_round("old", run_dir=repository.state_dir / "runs" / "one", timeout_sec=60.0)

    assert list((repository.state_dir / "runs" / "one" / "old").rglob("loop-mine.json"))
    assert rounds.rounds == []


@pytest.mark.parametrize(
    ("nodeid", "case"),
    [
        ("perf/test_more.py::test_loop", "loop-mine"),
        ("perf/test_speed.py::test_more", "loop-more"),
        ("perf/test_speed.py::test_plain", "loop-plain"),
    ],
    ids=["no such file", "no such test", "not marked perf"],
)
def test_a_test_that_the_revision_has_not_is_named(repository: Repository, nodeid: str, case: str) -> None:
    more = TESTS.replace("test_loop", "test_more").replace('"mine"', '"more"')
    repository.write("perf/test_speed.py", f"{TESTS}\n{more}")
    repository.write("perf/test_more.py", TESTS)
    rounds = repository.rounds(nodeid, case, "perf/test_more.py", "perf/test_speed.py")

    with pytest.raises(RevisionError, match=rf"^the perf test {nodeid} is not in old \(HEAD, \w{{7}}\)"):
        rounds.add_round("old", run_dir=repository.state_dir / "runs" / "one", timeout_sec=60.0)


@pytest.mark.parametrize(
    ("file", "text", "shown"),
    [
        ("src/kernels.py", "import no_such_module", "could not be run there .*no_such_module"),
        ("conftest.py", "", "could not be run there .*unrecognized arguments: --size=2"),
        ("conftest.py", f"{OPTION}{REFUSES}", "failed there .*no data"),
    ],
    ids=["no such module", "no such option", "error after it was found"],
)
def test_a_test_that_can_not_be_run_there_is_the_sides_error(
    repository: Repository, file: str, text: str, shown: str
) -> None:
    rounds = repository.rounds(LOOP, "loop-mine", "--size=2")
    checkout = next(path for path in (repository.state_dir / "ab").iterdir() if path.is_dir())
    (checkout / file).write_text(text)

    with pytest.raises(LaunchError, match=rf"(?s)^old .*{shown}"):
        rounds.add_round("old", run_dir=repository.state_dir / "runs" / "one", timeout_sec=60.0)


@pytest.mark.parametrize(
    ("replacement", "shown"),
    [
        (f"    pytest.skip('no such device')\n{BEGINS}", "measured no loop-mine there, but nothing; .*no such device"),
        ('    with perf.measure("other", tokens_per_step=8) as', "measured no loop-mine there, but loop-other; "),
    ],
    ids=["skipped", "another case"],
)
def test_a_test_that_does_not_measure_the_case_there_is_the_sides_error(
    repository: Repository, replacement: str, shown: str
) -> None:
    rounds = repository.rounds(LOOP, "loop-mine")
    checkout = next(path for path in (repository.state_dir / "ab").iterdir() if path.is_dir())
    (checkout / "perf" / "test_speed.py").write_text(TESTS.replace(BEGINS, replacement))

    with pytest.raises(LaunchError, match=rf"(?s)^old .*{shown}"):
        rounds.add_round("old", run_dir=repository.state_dir / "runs" / "one", timeout_sec=60.0)


def test_another_workload_in_the_revision_does_not_compare(repository: Repository) -> None:
    repository.write("perf/test_speed.py", TESTS.replace("tokens_per_step=8 *", "tokens_per_step=16 *"))
    rounds = repository.rounds(LOOP, "loop-mine")

    with pytest.raises(RevisionError, match=r"tokens_per_step is 8 there and 16 in the working tree"):
        repository.add_round(rounds)


def test_options_of_the_project_hold_on_both_sides(repository: Repository) -> None:
    rounds = repository.rounds(LOOP, "loop-mine", "--size", "3", "--rootdir=.", str(repository.root / "perf"))

    repository.add_round(rounds)

    assert [rounds.measured(name).workload["tokens_per_step"] for name in ("old", "new")] == [24, 24]


def test_the_old_side_loads_no_conftest_and_no_ini_file_of_the_working_tree(repository: Repository) -> None:
    repository.write("perf/test_speed.py", TESTS.replace("pytestconfig.getoption", "(lambda _: 1)"))
    git_in(repository.root, "rm", "--quiet", "--cached", "pytest.ini", "conftest.py")
    git_in(repository.root, "add", "perf")
    git_in(repository.root, "commit", "--quiet", "--message=no settings")
    repository.write("conftest.py", f"{OPTION}{NOTES_ITS_LOADING}")
    repository.write("pytest.ini", "[pytest]\naddopts = --size=3\n")
    rounds = repository.rounds(LOOP, "loop-mine")

    repository.add_round(rounds)

    assert rounds.num_counted == 1
    assert set((repository.root / "loaded-in").read_text().split()) == {str(repository.root)}


LEAVES_A_PROCESS = """
import os, pathlib, subprocess, time
import pytest

@pytest.mark.perf
def test_loop(perf):
    started = subprocess.Popen(["setsid", "sleep", "600"])
    time.sleep(0.2)
    pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {started.pid}\\n")
    time.sleep(600)
"""


@pytest.fixture
def hanging(repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file to which the test of the repository writes the ids of its processes, before it hangs."""
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    repository.write("perf/test_speed.py", LEAVES_A_PROCESS)
    repository.commit()
    repository.write("src/kernels.py", "")
    return tmp_path / "pids"


def living(pids: Path) -> list[int]:
    found = []
    for text in pids.read_text().split():
        if psutil.pid_exists(int(text)) and is_alive(psutil.Process(int(text))):
            found.append(int(text))
    return found


@pytest.mark.slow  # waits for its limit of 15 s
def test_a_process_that_takes_too_long_ends_with_all_that_it_started(repository: Repository, hanging: Path) -> None:
    rounds = repository.rounds(LOOP, "loop-mine")

    with pytest.raises(LaunchError, match=r"(?s)^old .* was ended after 15 s, its limit; its output ends with:\n"):
        rounds.add_round("old", run_dir=repository.state_dir / "runs" / "one", timeout_sec=15.0)

    assert living(hanging) == []


def test_an_interrupt_ends_a_process_with_all_that_it_started(repository: Repository, hanging: Path) -> None:
    rounds = repository.rounds(LOOP, "loop-mine")

    def interrupt() -> None:
        if hanging.exists() and hanging.read_text().endswith("\n"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds.add_round("new", run_dir=repository.state_dir / "runs" / "one", timeout_sec=60.0, on_poll=interrupt)

    assert living(hanging) == []
