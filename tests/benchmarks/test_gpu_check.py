"""Runner of the GPU check, with small programs as stages."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_check.archive import MAX_FILE_BYTES, write_archive
from gpu_check.cli import chosen_stages, collected_tests, forget, listing, store_baselines
from gpu_check.progress import Progress, last_line
from gpu_check.runner import Check, run_stages
from gpu_check.stages import STAGES, Selection, SelectionError, Stage
from gpu_check.state import Outcome, State, read_state

from pytest_nemoperf.native.fast_paths import FAST_PATHS

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from gpu_check.programs.program import NotHereError, run_program

def examine(context, findings):
    findings.table("Figures", ["name", "value"]).add("answer", "42")
    with open(context.check_folder / "ran.txt", "a") as file:
        file.write(context.folder.name + "\\n")
    findings.remarks.append("begun")
    {body}

sys.exit(run_program(examine))
"""
BODIES = {
    "passes": "pass",
    "fails": "findings.problems.append('too slow')",
    "lacks": "raise NotHereError('no such GPU')",
    "breaks": "import os; os._exit(3)",
    "hangs": "time.sleep(600)",
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the programs on the path of stages."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, body in BODIES.items():
        (folder / f"stage_{name}.py").write_text(PROGRAM.replace("{body}", body), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def stage(name: str, *, limit_sec: float = 60.0, **values: Any) -> Stage:
    """Return a stage of one of the programs, which its name begins with."""
    program = f"stage_{name.partition('-')[0]}"
    return Stage(name=name, shows=f"it {name}", program=program, limit_sec=limit_sec, **values)


def make_check(tmp_path: Path, **changes: Any) -> Check:
    folder = tmp_path / "check"
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "root": ROOT,
        "folder": folder,
        "archive": tmp_path / "check.tar.gz",
        "system": "cpu",
        "is_cpu": True,
        "total_sec": 600.0,
        "nodeids": None,
    }
    return Check(**{**values, **changes})


def run(check: Check, *stages: Stage) -> State:
    """Run stages on top of the state in the check's folder, and return the state."""
    state = read_state(check.folder, system=check.system)
    run_stages(check, stages, state=state, progress=Progress(io.StringIO()))
    return state


def ran(check: Check) -> list[str]:
    path = check.folder / "ran.txt"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def archived(check: Check) -> set[str]:
    with tarfile.open(check.archive) as tar:
        return set(tar.getnames())


def test_every_stage_is_named_once_and_its_program_is_there() -> None:
    names = [stage.name for stage in STAGES]

    assert len(set(names)) == len(names)
    for each in STAGES:
        assert (ROOT / "benchmarks" / f"{each.program.replace('.', '/')}.py").is_file()


def test_the_list_says_what_each_stage_and_each_fast_path_is_for() -> None:
    text = listing()

    for each in STAGES:
        assert each.shows in text
    for path in FAST_PATHS:
        assert path.name in text


@pytest.mark.parametrize("is_cpu", [False, True], ids=["gpu", "dry run"])
def test_every_stage_finds_its_tests(is_cpu: bool) -> None:  # noqa: FBT001 (parametrized)
    nodeids = collected_tests(STAGES, is_cpu=is_cpu)

    assert nodeids
    for each in STAGES:
        selection = each.selection(is_cpu=is_cpu)
        if selection is not None:
            assert selection.pick(nodeids, stage=each.name)


def test_a_selection_leaves_out_what_is_unwanted() -> None:
    selection = Selection(wanted=("a.py::*one*",), unwanted=("*vllm*",))

    assert selection.pick(["a.py::one", "a.py::one[vllm]", "b.py::one"], stage="suite") == ["a.py::one"]


def test_a_selection_that_matches_nothing_is_an_error_that_names_the_pattern() -> None:
    with pytest.raises(SelectionError, match=r"stage suite: a\.py::\* matches none of the 1 collected perf tests"):
        Selection(wanted=("a.py::*",)).pick(["b.py::one"], stage="suite")


def test_an_unknown_stage_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"--only=rank: no stage is named 'rank'; did you mean ranks\?"):
        chosen_stages("rank", skip="")


def test_stages_keep_their_order_and_may_be_left_out() -> None:
    assert [each.name for each in chosen_stages("suite,machine,ranks", skip="ranks")] == ["machine", "suite"]


def test_each_way_to_end_is_told_apart(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)

    state = run(check, stage("passes"), stage("fails"), stage("lacks"), stage("breaks"))

    outcomes = {name: kept.outcome for name, kept in state.stages.items()}
    assert outcomes == {
        "passes": Outcome.PASSED,
        "fails": Outcome.FAILED,
        "lacks": Outcome.NOT_HERE,
        "breaks": Outcome.BROKEN,
    }
    assert state.stages["fails"].detail == "too slow"
    assert state.stages["lacks"].detail == "no such GPU"
    assert "ended with status 3" in state.stages["breaks"].detail


def test_a_stage_without_its_package_is_not_started(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)

    state = run(check, stage("passes", distributions=("no-such-distribution",)))

    assert state.stages["passes"].outcome is Outcome.NOT_HERE
    assert state.stages["passes"].detail == "no-such-distribution is not installed for this interpreter"
    assert ran(check) == []


def test_a_stage_at_its_limit_keeps_what_it_found_and_the_next_one_runs(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)

    state = run(check, stage("hangs", limit_sec=8.0), stage("passes"))

    assert state.stages["hangs"].outcome is Outcome.TIMED_OUT
    assert state.stages["passes"].outcome is Outcome.PASSED
    findings = json.loads((check.folder / "hangs" / "findings.json").read_text(encoding="utf-8"))
    assert findings["tables"][0]["rows"] == [["answer", "42"]]
    assert findings["remarks"] == ["begun", "ended before all of it was done"]


def test_another_start_goes_on_with_what_has_not_ended_by_itself(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)
    stages = (stage("passes"), stage("fails"), stage("lacks"))
    run(check, *stages)

    run(check, *stages, stage("passes-too"))

    assert ran(check) == ["passes", "fails", "lacks", "lacks", "passes-too"]


@pytest.mark.parametrize(
    ("options", "again"),
    [
        ({"again": True, "again_failed": False}, {"passes", "fails"}),
        ({"again": False, "again_failed": True}, {"fails"}),
    ],
    ids=["--again", "--again-failed"],
)
def test_stages_run_once_more_when_asked(
    programs: None, tmp_path: Path, options: dict[str, bool], again: set[str]
) -> None:
    check = make_check(tmp_path)
    stages = (stage("passes"), stage("fails"))
    state = run(check, *stages)

    forget(state, stages, **options)
    state.write(check.folder)
    run(check, *stages)

    assert set(ran(check)[2:]) == again


def test_the_state_of_another_system_does_not_count(programs: None, tmp_path: Path) -> None:
    run(make_check(tmp_path, system="h100"), stage("passes"))
    check = make_check(tmp_path, system="h200")

    run(check, stage("passes"))

    assert ran(check) == ["passes", "passes"]


def test_stages_beyond_the_whole_time_are_not_reached(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path, total_sec=5.0)

    state = run(check, stage("passes"))

    assert state.stages == {}
    assert ran(check) == []


def test_the_archive_has_summaries_logs_and_findings(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)

    run(check, stage("fails"))

    names = {"state.json", "summary.md", "summary.json", "fails/log.txt", "fails/findings.json"}
    assert {f"gpu-check/{name}" for name in names} <= archived(check)


def test_the_archive_leaves_out_what_is_large_or_no_text(tmp_path: Path) -> None:
    for name, size in (("small.json", 10), ("large.json", MAX_FILE_BYTES + 1), ("kernel.so", 10)):
        (tmp_path / "check").mkdir(exist_ok=True)
        (tmp_path / "check" / name).write_bytes(b" " * size)

    write_archive(tmp_path / "check.tar.gz", folder=tmp_path / "check")

    with tarfile.open(tmp_path / "check.tar.gz") as tar:
        assert tar.getnames() == ["gpu-check/small.json"]


DRIVER = """
import sys
sys.path.insert(0, {benchmarks!r})
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.benchmarks.test_gpu_check import make_check, run, stage
print("started", flush=True)
run(make_check(Path({tmp!r})), stage("passes"), stage("hangs"))
"""


def started_check(tmp_path: Path) -> subprocess.Popen[str]:
    """Start a check whose second stage hangs, and return it once that stage has begun."""
    script = DRIVER.format(benchmarks=str(ROOT / "benchmarks"), root=str(ROOT), tmp=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], text=True, stderr=subprocess.PIPE)
    check = make_check(tmp_path)
    wait_until(lambda: ran(check) == ["passes", "hangs"])
    return process


def wait_until(condition: Callable[[], bool], *, limit_sec: float = 120.0) -> None:
    deadline = time.monotonic() + limit_sec
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def programs_running(tmp_path: Path) -> list[str]:
    """Return the command lines of stages' programs that write into the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if f"--folder={tmp_path}" in line:
            found.append(line)
    return found


def test_ctrl_c_keeps_everything_and_leaves_no_process(programs: None, tmp_path: Path) -> None:
    process = started_check(tmp_path)

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)

    assert "KeyboardInterrupt" in errors
    check = make_check(tmp_path)
    state = read_state(check.folder, system="cpu")
    assert [kept.outcome for kept in state.stages.values()] == [Outcome.PASSED, Outcome.INTERRUPTED]
    assert "gpu-check/hangs/findings.json" in archived(check)
    assert programs_running(tmp_path) == []


def test_a_killed_check_leaves_the_archive_of_the_stages_before_and_no_process(programs: None, tmp_path: Path) -> None:
    process = started_check(tmp_path)
    assert programs_running(tmp_path)

    process.kill()
    process.communicate(timeout=60)

    check = make_check(tmp_path)
    assert "gpu-check/passes/findings.json" in archived(check)
    assert list(read_state(check.folder, system="cpu").stages) == ["passes"]
    wait_until(lambda: programs_running(tmp_path) == [])


def test_new_baselines_are_copied_and_equal_ones_are_not(tmp_path: Path) -> None:
    found, committed = tmp_path / "found", tmp_path / "committed"
    for folder, name, text in ((found, "a", "1"), (found, "b", "2"), (committed, "a", "1")):
        (folder / "h200").mkdir(parents=True, exist_ok=True)
        (folder / "h200" / f"{name}.json").write_text(text, encoding="utf-8")

    assert store_baselines(found, into=committed) == "baselines stored:\n  baselines/h200/b.json"
    assert (committed / "h200" / "b.json").read_text(encoding="utf-8") == "2"
    assert store_baselines(found, into=committed) == "baselines: nothing new"


def test_a_terminal_sees_the_time_and_the_last_line_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    log = tmp_path / "log.txt"
    log.write_text("first\nsecond\n\n", encoding="utf-8")
    progress = Progress(stream)

    progress.begin("[1/2] suite", limit_sec=270)
    progress.show(75.0, log=log)

    assert "[1/2] suite 1:15 of 4:30  second" in stream.getvalue()
    assert last_line(tmp_path / "none.txt") == ""


def test_a_dry_run_takes_the_stages_of_a_gpu_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--dry-run", "--only=machine,memory"]
    command += [f"--folder={tmp_path / 'check'}", f"--archive={tmp_path / 'check.tar.gz'}"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr
    assert "machine: passed" in run.stdout
    assert "memory: not here" in run.stdout
    assert "stage suite has measured no case; run it first" in run.stdout
    summary = json.loads((tmp_path / "check" / "summary.json").read_text(encoding="utf-8"))
    tables = {table["title"]: table["rows"] for table in summary["stages"]["machine"]["findings"]["tables"]}
    assert ["system", "cpu"] in tables["Machine"]


def test_a_stage_chooses_its_tests_before_it_starts(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path, nodeids=["a.py::one"])
    missing = replace(
        stage("passes"), tests=Selection(wanted=("a.py::two",)), stand_ins=Selection(wanted=("a.py::two",))
    )

    state = run(check, missing)

    assert state.stages["passes"].outcome is Outcome.BROKEN
    assert "a.py::two matches none" in state.stages["passes"].detail
