"""Runner of the GPU check, with small programs as stages."""

from __future__ import annotations

import io
import json
import os
import re
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
from filelock import FileLock
from gpu_check.archive import MAX_FILE_BYTES, write_archive
from gpu_check.cli import chosen_stages, collected_tests, forget, listing, main, store_baselines
from gpu_check.process import ENDING_SEC
from gpu_check.progress import Progress, last_line
from gpu_check.runner import Check, run_stages
from gpu_check.stages import STAGES, Selection, SelectionError, Stage
from gpu_check.state import STATE_FILE, Outcome, StageState, State, read_state
from gpu_check.summary import terminal_text, write_summary

from pytest_nemoperf.errors import RecordError
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
    "raises": "raise ValueError('no such file')",
    "waits": "findings.unjudged.append('machine busy')",
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
    values = {"expected_sec": limit_sec, **values}
    return Stage(name=name, shows=f"it {name}", program=program, limit_sec=limit_sec, **values)


def make_check(tmp_path: Path, *, total_sec: float = 600.0, **changes: Any) -> Check:
    folder = tmp_path / "check"
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {
        "root": ROOT,
        "folder": folder,
        "archive": tmp_path / "check.tar.gz",
        "system": "cpu",
        "is_cpu": True,
        "deadline": time.monotonic() + total_sec,
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

    words = " ".join(text.split())
    for each in STAGES:
        assert each.shows in words
    for path in FAST_PATHS:
        assert path.name in words
    assert max(map(len, text.splitlines())) < 80


def test_the_page_names_every_stage_and_every_fast_path() -> None:
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    stages = re.findall(r"^\| `([^`]+)` \|", page.partition("## Stages")[2].partition("## Results")[0], re.MULTILINE)
    paths = re.findall(r"^\| `([^`]+)` \|", page.partition("## Fast paths")[2], re.MULTILINE)

    assert stages == [each.name for each in STAGES]
    assert paths == [path.name for path in FAST_PATHS]


@pytest.mark.parametrize("is_cpu", [False, True], ids=["gpu", "dry run"])
def test_every_stage_finds_its_tests(is_cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001 (parametrized)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark warns in a first worker
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

    state = run(check, *map(stage, ("passes", "fails", "lacks", "breaks", "raises", "waits")))

    outcomes = {name: kept.outcome for name, kept in state.stages.items()}
    assert outcomes == {
        "passes": Outcome.PASSED,
        "fails": Outcome.FAILED,
        "lacks": Outcome.NOT_HERE,
        "breaks": Outcome.BROKEN,
        "raises": Outcome.FAILED,
        "waits": Outcome.NOT_JUDGED,
    }
    assert state.stages["raises"].detail == "the program of the stage failed, see log.txt: ValueError: no such file"
    assert state.stages["waits"].detail == "machine busy"
    assert state.stages["fails"].detail == "too slow"
    assert state.stages["lacks"].detail == "no such GPU"
    assert "ended with status 3" in state.stages["breaks"].detail


def test_a_stage_without_its_package_is_not_started(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)

    state = run(check, stage("passes", distributions=("no-such-distribution",)))

    assert state.stages["passes"].outcome is Outcome.NOT_HERE
    assert state.stages["passes"].detail == "no-such-distribution is not installed for this interpreter"
    assert ran(check) == []


def test_a_stage_that_needs_more_gpus_is_not_started(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path, is_cpu=False, num_gpus=1)

    state = run(check, stage("passes", least_gpus=4))

    assert state.stages["passes"].detail == "it needs 4 GPUs, and 1 can be seen"
    assert ran(check) == []


def test_a_stage_at_its_limit_keeps_what_it_found_and_the_next_one_runs(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)

    state = run(replace(check, stretch=2.0), stage("hangs", limit_sec=4.0), stage("passes"))

    assert state.stages["hangs"].limit_sec == 8.0
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

    forget(state, stages, folder=check.folder, **options)
    state.write(check.folder)
    run(check, *stages)

    assert set(ran(check)[2:]) == again


def test_the_folder_of_another_system_is_refused(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path, system="h100")
    run(check, stage("passes"))

    with pytest.raises(RecordError, match=r"is of system h100, and this machine is h200.*give another --folder"):
        read_state(check.folder, system="h200")


def test_stages_run_anew_forget_what_they_found(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path)
    state = run(check, stage("passes"))

    forget(state, (stage("passes"),), folder=check.folder, again=True, again_failed=False)

    assert state.stages == {}
    assert not (check.folder / "passes").exists()


def test_stages_that_the_time_has_no_room_for_are_left_for_the_next_start(programs: None, tmp_path: Path) -> None:
    check = make_check(tmp_path, total_sec=120.0, is_cpu=False, num_gpus=1)

    state = run(check, stage("passes-whole", limit_sec=200.0), stage("passes-on", limit_sec=200.0, goes_on=True))

    assert ran(check) == ["passes-on"]
    assert state.stages["passes-on"].limit_sec < 100.0


def test_the_summary_says_what_is_left_for_the_next_start(programs: None, tmp_path: Path) -> None:
    state = State(system="cpu")
    values: dict[str, Any] = {"seconds": 1.0, "limit_sec": 2.0, "date": ""}
    for each, outcome in zip(STAGES[:4], (Outcome.PASSED, Outcome.TIMED_OUT, Outcome.NOT_HERE), strict=False):
        state.stages[each.name] = StageState(outcome=outcome, detail="too " + "slow " * 30, **values)
    write_summary(tmp_path, state=state)

    left = f"Left for the next start: {STAGES[1].name} (timed out), {STAGES[3].name}, {STAGES[4].name}, "
    assert left in (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["left"].startswith(left)
    shown = terminal_text(state, columns=80)
    assert "Left for the next start:" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_first_start_has_room_for_what_matters_most() -> None:
    most = sum(each.expected_sec for each in STAGES[:3])

    assert [each.name for each in STAGES[:3]] == ["machine", "ranks", "suite"]
    assert most + ENDING_SEC <= 8 * 60
    assert all(each.expected_sec <= each.limit_sec for each in STAGES)


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
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
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
    outcomes = {name: kept.outcome for name, kept in state.stages.items()}
    assert outcomes == {"passes": Outcome.PASSED, "hangs": Outcome.INTERRUPTED}
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


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "state.json"), ('{"system": "h100", "stages": {}}', "of system h100, and this machine is cpu")],
    ids=["broken", "of another system"],
)
def test_a_state_that_does_not_fit_is_an_error_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    (tmp_path / STATE_FILE).write_text(text, encoding="utf-8")

    assert main(["--dry-run", "--only=machine", f"--folder={tmp_path}"]) == 2

    assert says in capsys.readouterr().err


def test_two_checks_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with FileLock(tmp_path / ".lock"):
        assert main(["--dry-run", "--only=machine", f"--folder={tmp_path}"]) == 2

    assert f"another check runs in {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "many", "nan"])
def test_a_time_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        main([f"--minutes={text}"])

    assert f"'{text}' minutes; give a number above 0" in capsys.readouterr().err


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
