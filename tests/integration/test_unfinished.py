"""What was measured is reported, whatever ends a case before its verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.integration.conftest import Project, has_text, usage_error

MEASURED = "2 runs were measured (2,560 tokens/sec/GPU, 0.0083 TFLOP/s/GPU, peak memory 1 GiB)"


def break_run_3(project: Project, fault: str) -> None:
    project.edit(
        "steps.py", {"with open(": f"if os.environ['NEMOPERF_RUN_DIR'].endswith('run-3'):\n    {fault}\nwith open("}
    )


def test_runs_before_a_failed_launch_are_reported(project: Project) -> None:
    break_run_3(project, "raise SystemExit('out of paper')")

    result = project.run("--update-baselines", "--perf-runs=5", "--junitxml=junit.xml")

    result.assert_outcomes(failed=1)
    assert has_text(result, f"{MEASURED} before this")
    case = project.case()
    assert case["verdict"]["kind"] == "INVALID"
    assert len(case["measurement"]["runs"]) == 2
    assert case["verdict"]["reasons"][0].startswith(f"{MEASURED} and not judged: run 3 failed: the command")
    assert not project.results()["not_run"]
    assert MEASURED in (project.root / "junit.xml").read_text()
    assert "not judged: run 3 failed" in (project.latest / "results.md").read_text()
    assert not project.baseline.exists()


def test_a_replay_of_runs_before_a_failed_launch_is_as_invalid(project: Project) -> None:
    break_run_3(project, "raise SystemExit('out of paper')")
    project.run("--perf-runs=5")
    first = project.case()
    (stored,) = (project.root / ".nemoperf" / "runs").glob("*-*")

    result = project.run(f"--perf-replay={stored}")

    result.assert_outcomes(failed=1)
    assert project.case()["verdict"]["reasons"] == first["verdict"]["reasons"]


def test_runs_of_a_test_that_fails_by_itself_are_reported(project: Project) -> None:
    project.edit("test_speed.py", {"perf.check(RECIPE)": "perf.run(RECIPE)\n    raise RuntimeError('mine')"})

    result = project.run("--update-baselines")

    result.assert_outcomes(failed=1)
    assert project.case()["verdict"]["reasons"][0].endswith(
        "and not judged: its test failed for another reason than its speed"
    )
    assert len(project.case()["measurement"]["runs"]) == 1
    assert not project.baseline.exists()


def test_a_loop_whose_baseline_is_broken_is_reported(project: Project) -> None:
    project.pytester.makepyfile(
        test_speed="""
import time
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=64, steps=4) as steps:
        for step in steps:
            time.sleep(0.001)
"""
    )
    broken = project.root / "baselines" / "cpu" / "loop-mine.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("torn")

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "loop-mine.json: not JSON")
    assert project.case()["verdict"]["kind"] == "INVALID"
    assert len(project.case()["measurement"]["runs"]) == 1
    assert "and not judged" in project.case()["verdict"]["reasons"][0]


LOOP = """
import time
import pytest

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=64, steps=4) as steps:
        for number, step in enumerate(steps):
            time.sleep(0.001)
            if number == {number}:
                {ending}
"""


@pytest.mark.parametrize(
    ("ending", "code", "how"),
    [
        pytest.param(r"raise ValueError('odd batch\nand more')", 1, "was ended by ValueError: odd batch", id="error"),
        pytest.param("pytest.exit('enough')", 2, "was ended by enough", id="exit"),
    ],
)
def test_passes_before_an_error_in_a_loop_are_reported(
    project: Project, monkeypatch: pytest.MonkeyPatch, ending: str, code: int, how: str
) -> None:
    monkeypatch.setattr("pytest_nemoperf.plugin.fixture.MIN_PASS_SEC", 60.0)
    project.pytester.makepyfile(test_speed=LOOP.format(number=8, ending=ending))

    result = project.run("--update-baselines", "--perf-fail-on=REGRESSED")

    assert result.ret == code
    case = project.case()
    assert (case["verdict"]["kind"], len(case["measurement"]["runs"])) == ("INVALID", 1)
    assert case["verdict"]["reasons"][0].startswith("1 run was measured (")
    assert case["verdict"]["reasons"][0].endswith(f"and not judged: its loop {how}")
    assert not list((project.root / "baselines").rglob("loop-*"))


@pytest.mark.parametrize(
    ("number", "ending"),
    [
        pytest.param(3, "raise ValueError('early')", id="before all steps were gone through"),
        pytest.param(8, "pytest.skip('no data')", id="a skip"),
    ],
)
def test_a_loop_without_a_complete_pass_or_skipped_is_no_case(
    project: Project, monkeypatch: pytest.MonkeyPatch, number: int, ending: str
) -> None:
    monkeypatch.setattr("pytest_nemoperf.plugin.fixture.MIN_PASS_SEC", 60.0)
    project.pytester.makepyfile(test_speed=LOOP.format(number=number, ending=ending))

    project.run()

    assert not project.results()["cases"]


def test_runs_whose_record_can_not_be_written_are_judged(project: Project) -> None:
    taken = "os.makedirs(os.environ['NEMOPERF_RUN_DIR'] + '/../case.json')"
    project.edit("steps.py", {"with open(": f"{taken}\nwith open("})

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["perf: the runs of * can't be judged again (--perf-replay): */case.json: *"])


def test_a_baseline_that_can_not_be_written_names_the_runs_to_make_it_of(project: Project) -> None:
    taken = f"os.makedirs({str(project.baseline)!r})"
    project.edit("test_speed.py", {"perf.check(RECIPE)": f"perf.check(RECIPE)\n    import os\n    {taken}"})

    result = project.run("--update-baselines")

    result.assert_outcomes(passed=1, errors=1)
    assert has_text(result, "its runs stay in .nemoperf/runs/")
    assert "`nemoperf record .nemoperf/runs/" in project.case()["storing_note"]
    assert project.case()["measurement"]["runs"]


@pytest.mark.parametrize(
    ("option", "place"),
    [
        pytest.param("--perf-output=/proc/x", "/proc takes no files", id="output"),
        pytest.param("--perf-baselines=/proc/x", "/proc takes no files", id="baselines"),
    ],
)
def test_a_folder_that_takes_no_file_is_told_before_anything_is_launched(
    project: Project, option: str, place: str
) -> None:
    message = usage_error(project.run("--update-baselines", option))

    assert f"{option}: can't be written: {place}" in message
    assert "(nothing was launched)" in message
    assert not (project.root / ".nemoperf" / "runs").exists()


@pytest.mark.parametrize("option", ["--perf-output", "--perf-baselines", "--perf-replay"])
def test_a_folder_whose_name_no_disk_takes_is_told_in_words(project: Project, option: str) -> None:
    message = usage_error(project.run(f"{option}={'n' * 300}"))

    assert f"{option}=n" in message
    assert "nnn: File name too long; choose shorter names" in message


def test_a_file_where_the_state_folder_belongs_is_told_before_anything_is_launched(project: Project) -> None:
    (project.root / ".nemoperf").write_text("a file")

    message = usage_error(project.run("--perf-output=out"))

    assert ".nemoperf, the folder of runs" in message
    assert ".nemoperf is no folder; name another, or move it away (nothing was launched)" in message


def test_a_dry_run_needs_no_folder_for_runs(project: Project) -> None:
    (project.root / ".nemoperf").write_text("a file")

    project.run("--perf-dry-run", "--perf-output=out").assert_outcomes(skipped=1)


def test_a_collection_writes_nothing_and_needs_no_folder(project: Project) -> None:
    (project.root / ".nemoperf").write_text("a file")

    assert project.run("--collect-only").ret == pytest.ExitCode.OK


@pytest.mark.parametrize(
    ("signum", "code", "how"),
    [
        pytest.param(signal.SIGINT, 2, "was interrupted", id="Ctrl-C", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "was ended by SIGTERM", id="SIGTERM"),
        pytest.param(signal.SIGHUP, 129, "was ended by SIGHUP", id="terminal closed", marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_a_launch_leaves_the_runs_before_it_reported(
    project: Project, signum: signal.Signals, code: int, how: str
) -> None:
    flag = project.root / "flag"
    break_run_3(project, f"import time; open({str(flag)!r}, 'w').close(); time.sleep(60)")
    _accept_a_busy_machine(project)
    command = [sys.executable, "-m", "pytest", "-m", "perf", "--system=cpu", "-p", "no:cacheprovider", "--perf-runs=5"]
    process = subprocess.Popen(
        command,
        cwd=project.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_with_usual_signals,  # noqa: PLW1509 (no threads)
    )

    _await(flag.exists)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == code
    assert "1 INVALID" in output.decode()  # in pytest's summary
    assert project.case()["verdict"]["reasons"] == [f"{MEASURED} and not judged: run 3 {how}"]
    assert not list((project.root / ".nemoperf").rglob("*.tmp"))


@pytest.mark.parametrize("name", ["prüfung-日本".encode(), b"bytes-\xff"], ids=["UTF-8", "no UTF-8"])
def test_a_folder_of_any_name_can_be_measured_in_under_any_locale(project: Project, name: bytes) -> None:
    folder = project.root / os.fsdecode(name)
    folder.mkdir()
    for path in project.root.glob("*.*"):
        path.rename(folder / path.name)
    project.root = folder
    _accept_a_busy_machine(project)
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "pytest", "-m", "perf", "--system=cpu", "-p", "no:cacheprovider"]

    process = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False, timeout=100)

    assert process.returncode == 0, process.stdout.decode(errors="replace")
    (stored,) = project.case()["plan"]["command"][1:]
    assert stored == f"{project.pytester.path}/{name.decode('utf-8', 'backslashreplace')}/steps.py"


def _accept_a_busy_machine(project: Project) -> None:
    """Write a conftest for sessions in processes of their own, which the patches of this one do not reach."""
    (project.root / "conftest.py").write_text(
        "import pytest_nemoperf.records.health as health, pytest_nemoperf.runs.step_times as step_times\n"
        "health.MAX_FOREIGN_SHARE = health.MAX_STEAL_SHARE = 2.0\n"
        "step_times._MAX_RECORDED_SHARE = float('inf')\n"
    )


def _with_usual_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _await(is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < deadline
        time.sleep(0.02)
