from __future__ import annotations

import json

import pytest

from tests.integration.conftest import CASE, Project, has_text


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


def test_the_time_limit_of_a_stored_case_follows_from_its_step_time(project: Project) -> None:
    first = project.run("--perf-dry-run")
    by_flops = json.loads((project.latest / "dry_run.json").read_text())["cases"][0]["price"]["plan"]
    project.run("--update-baselines")
    project.run("--perf-dry-run")
    by_runs = json.loads((project.latest / "dry_run.json").read_text())["cases"][0]["price"]["plan"]

    first.assert_outcomes(skipped=1)
    assert "derived from FLOPs at a CPU rank's slowest rate" in by_flops["timeout_basis"]
    assert "8x the stored step time of 0.1 s" in by_runs["timeout_basis"]
    assert by_runs["timeout_sec"] <= by_flops["timeout_sec"]


OUT_OF_MEMORY = (
    "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 3 has a total capacity of "
    "79.11 GiB of which 1.10 GiB is free."
)


@pytest.mark.parametrize("exit_code", [0, 1])
def test_memory_that_could_not_be_had_is_told_with_rank_and_size(project: Project, exit_code: int) -> None:
    (project.root / "steps.py").write_text(f"print({OUT_OF_MEMORY!r})\nraise SystemExit({exit_code})\n")

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(
        result, f"LaunchError: OUT OF MEMORY: rank 3 of {CASE} tried to allocate 2.50 GiB on GPU 3 (it has 79.11 GiB"
    )


def test_milliseconds_where_seconds_belong_are_told_with_a_guess(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.runs.step_times._MAX_RECORDED_SHARE", 1.5)
    project.set_step_time(50.0)
    steps = project.root / "steps.py"
    steps.write_text(steps.read_text() + "\nimport time\ntime.sleep(0.5)\n")

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "either they are in milliseconds (0.65 s would fit), or they were not measured in this run")


def test_a_speed_that_no_device_has_is_invalid_with_the_arithmetic(project: Project) -> None:
    project.set_step_time(1e-8)

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "times the largest peak of any device in the catalog")
    assert project.case()["verdict"]["kind"] == "INVALID"


def test_a_program_of_one_process_is_not_told_that_it_is_a_rank(project: Project) -> None:
    steps = project.root / "steps.py"
    steps.write_text(steps.read_text() + "\nassert not {'RANK', 'WORLD_SIZE', 'MASTER_ADDR'} & set(os.environ)\n")

    project.run().assert_outcomes(passed=1)


def test_a_command_per_rank_knows_its_rank(project: Project) -> None:
    project.edit(
        "test_speed.py",
        {
            'framework="command",': 'framework="command", is_command_per_rank=True,',
            "Layout(gpus=1)": "Layout(gpus=2, dp_shard=2)",
        },
    )
    steps = project.root / "steps.py"
    text = steps.read_text().replace("import json, os\n", "import json, os, sys\n")
    steps.write_text(text.replace("seconds = float", "if os.environ['RANK'] == '1': sys.exit()\nseconds = float", 1))

    project.run().assert_outcomes(passed=1)

    assert project.case()["measurement"]["workload"]["is_command_per_rank"] is True
