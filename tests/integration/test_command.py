from __future__ import annotations

import pytest

from tests.integration.conftest import Project


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("pass", "*exited with 0 but wrote no step records*", id="no-records"),
        pytest.param('out.write(\'{"step": 0, "step_ti\')', "*steps.jsonl:1: half a line*", id="half-a-line"),
        pytest.param(
            'out.write(\'{"step": 0, "step_time_sec": -1, "tokens": 4}\\n\')',
            "*step_time_sec=-1.0 must be positive and finite*",
            id="negative-time",
        ),
        pytest.param(
            'out.write(\'{"step": 0, "step_time_sec": NaN, "tokens": 4}\\n\')',
            "*step_time_sec=nan must be positive and finite*",
            id="nan-time",
        ),
        pytest.param("raise SystemExit('out of memory')", "*out of memory*", id="fails"),
    ],
)
def test_a_command_that_leaves_no_sound_records_is_one_clear_error(project: Project, script: str, message: str) -> None:
    (project.root / "steps.py").write_text(f"import os\nout = open(os.environ['NEMOPERF_STEPS'], 'a')\n{script}\n")

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([message])


def test_a_missing_program_is_named(project: Project) -> None:
    project.edit("test_speed.py", {"sys.executable": '"no-such-program"'})

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["LaunchError: *no-such-program*"])
    result.stdout.no_fnmatch_line("*During handling*")


def test_a_case_that_takes_too_long_is_stopped(project: Project) -> None:
    (project.root / "steps.py").write_text("import time\ntime.sleep(600)\n")

    result = project.run("--perf-timeout=1")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*timed out after 1 s*"])
