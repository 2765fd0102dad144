from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from pytest_nemoperf.machine.host_lock import HostLock
from tests.integration.conftest import CASE, PERF_TEST, Project, has_text
from tests.schema_check import schema_faults

ONE_CHECK = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
def test_speed(perf):
    perf.check(Recipe(model="{model}", layouts={{"cpu": Layout({layout})}}, seq_len={seq_len}, global_batch_size=2))
"""


def test_the_first_run_has_no_baseline_and_is_recorded_locally(project: Project) -> None:
    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*NO BASELINE*{CASE}*"])
    assert not project.baseline.exists()
    assert list((project.root / ".nemoperf" / "baselines").rglob(f"{CASE}.json"))


def test_the_second_run_is_judged_against_the_first(project: Project) -> None:
    project.run()

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*PASSED*{CASE}*"])


def test_the_baseline_is_looked_up_after_the_sessions_that_were_waited_for(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.run()
    (stored,) = (project.root / ".nemoperf" / "baselines").rglob(f"{CASE}.json")
    text = stored.read_text()
    stored.unlink()
    monkeypatch.setattr(HostLock, "acquire", lambda *_, **__: stored.write_text(text))  # as the other session ends

    result = project.run()

    result.stdout.fnmatch_lines([f"*PASSED*{CASE}*"])


def test_a_slower_run_fails_with_numbers_and_commands(project: Project) -> None:
    project.run()
    project.set_step_time(0.15)

    result = project.run()

    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tokens/sec/GPU is 33.3% below *(1,707 against 2,560; allows 10%,*",
            "finds *",
            "*pytest -m perf --system=cpu test_speed.py::test_speed*",
            "*--update-baselines*",
        ]
    )


def test_a_measurement_that_the_test_changes_is_judged_as_it_is_then(project: Project) -> None:
    project.edit(
        "test_speed.py",
        {
            "import pathlib, sys": "import dataclasses, pathlib, sys",
            "perf.check(RECIPE)": 'perf.compare(dataclasses.replace(perf.run(RECIPE), problems=("spilled coffee",)))',
        },
    )

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*INVALID {CASE}*", "*spilled coffee*"])


def test_reports_that_cannot_be_written_are_named(project: Project) -> None:
    (project.root / "out" / "results.json").mkdir(parents=True)

    result = project.run("--perf-output=out")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*out/results.md", "perf: not written: */out/results.json: Is a directory; results.json went to *"]
    )
    elsewhere = result.stdout.str().partition("results.json went to ")[2].splitlines()[0]
    assert json.loads((Path(elsewhere) / "results.json").read_text())["cases"]


def test_a_faster_run_is_improved_and_passes(project: Project) -> None:
    project.run()
    project.set_step_time(0.05)

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*IMPROVED*{CASE}*"])


def test_the_results_file_and_the_markdown_table_are_written(project: Project) -> None:
    project.run()

    assert schema_faults(project.results(), name="results") == []
    assert project.case()["verdict"]["kind"] == "NO BASELINE"
    assert "| Model | #-GPUs | GBS | MBS | Sequence Length |" in (project.latest / "results.md").read_text()


def test_junit_properties_carry_the_verdict(project: Project) -> None:
    project.run("--junitxml=junit.xml")

    assert 'value="NO BASELINE"' in (project.root / "junit.xml").read_text()


def test_a_recipe_without_a_layout_for_the_system_skips_and_says_so(project: Project) -> None:
    project.edit("test_speed.py", {'"cpu"': '"h100"'})

    result = project.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no layout for system cpu*"])


def test_two_tests_may_not_share_a_case(project: Project) -> None:
    again = "\n@pytest.mark.perf\ndef test_again(perf):\n    perf.check(RECIPE)\n"
    project.pytester.makepyfile(test_speed=PERF_TEST + again)

    result = project.run()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*belongs to test_speed.py::test_speed already*a variant*"])


def test_run_then_compare_judge_as_check_does(project: Project) -> None:
    calls = """measurement = perf.run(RECIPE)
    assert measurement.runs[0].metrics["tokens_per_sec_per_gpu"] > 1
    assert perf.compare(measurement).kind == "NO BASELINE"
"""
    project.edit("test_speed.py", {"perf.check(RECIPE)": calls})

    project.run().assert_outcomes(passed=1)


def test_a_corrupt_baseline_fails_and_is_kept(project: Project) -> None:
    project.baseline.parent.mkdir(parents=True)
    project.baseline.write_text('{"case": "pre')

    result = project.run("--update-baselines")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{CASE}.json: not JSON: *"])
    assert project.baseline.read_text() == '{"case": "pre'


def test_a_run_that_has_not_settled_is_launched_once_more(project: Project) -> None:
    first = "import pathlib\ntried = pathlib.Path('tried')\nfirst, base = not tried.exists(), seconds\ntried.touch()\n"
    project.edit("steps.py", {"with open": f"{first}with open"})
    vary_steps(project, "base * (3 if first and step >= 8 else 1)")

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*run 1 is dropped and launched again: * not settled*"])


def test_a_run_that_never_settles_is_invalid(project: Project) -> None:
    vary_steps(project, "0.1 if step < 8 else 0.3")

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INVALID*the steps have not settled*"])


def vary_steps(project: Project, seconds: str) -> None:
    """Let each step take the time of an expression."""
    project.edit("steps.py", {"record = {": f"seconds = {seconds}\n        record = {{"})


def drift_by_turns(project: Project) -> None:
    """Let successive tries of a run drift in opposite directions."""
    count = "import pathlib\ntries = pathlib.Path('tries')\nnumber = int(tries.read_text()) if tries.exists() else 0\n"
    count += "tries.write_text(str(number + 1))\nbase = seconds\n"
    project.edit("steps.py", {"with open": f"{count}with open"})
    vary_steps(project, "base * ((1.5 if step >= 8 else 1) if number % 2 else (0.7 if step >= 10 else 1))")


def test_a_first_run_on_a_restless_machine_is_recorded_with_the_noise_it_saw(project: Project) -> None:
    drift_by_turns(project)

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*NO BASELINE*", "*the machine was restless: *within run 1 by *"])
    (path,) = (project.root / ".nemoperf" / "baselines").rglob(f"{CASE}.json")
    (run,) = json.loads(path.read_text())["runs"]
    assert abs(run["drift_pct"]) > 10


def test_a_restless_machine_leaves_a_case_undecided_and_a_large_loss_regressed(project: Project) -> None:
    project.run("--update-baselines")
    drift_by_turns(project)

    undecided = project.run("--perf-tolerance=5%")
    project.set_step_time(0.3)
    slower = project.run("--perf-tolerance=5%")

    undecided.assert_outcomes(passed=1)
    undecided.stdout.fnmatch_lines(["*INCONCLUSIVE*"])
    slower.assert_outcomes(failed=1)
    slower.stdout.fnmatch_lines(["*REGRESSED*"])


def test_a_restless_run_is_judged_again_as_its_session_judged_it(project: Project) -> None:
    project.run("--update-baselines")
    drift_by_turns(project)
    project.run("--perf-tolerance=5%", "--perf-max-runs=1")
    (third_try,) = project.root.glob(".nemoperf/runs/*/*/run-1c")
    session = third_try.parents[1]

    result = project.run("--perf-tolerance=5%", "--perf-max-runs=1", f"--perf-replay={session}")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*INCONCLUSIVE*", "*the machine was restless*"])


def test_a_recipe_that_can_not_be_shows_the_tests_line_and_no_frame_of_the_plugin(project: Project) -> None:
    project.pytester.makepyfile(test_speed=ONE_CHECK.format(model="llama-tiny", layout="gpus=1", seq_len=0))

    result = project.run()

    result.assert_outcomes(failed=1)
    error = (
        "E*RecipeError: seq_len=0 must be a whole number >= 1; give it, or framework_config with a file that says it"
    )
    result.stdout.fnmatch_lines([">*perf.check(Recipe(*seq_len=0*", error])
    result.stdout.no_fnmatch_line("*recipe.py*")


@pytest.mark.ranks
def test_a_case_too_large_for_this_hosts_memory_is_not_launched(project: Project) -> None:
    values = {"model": "llama3.1-405b", "layout": "gpus=2, dp_shard=2", "seq_len": 8192}
    project.pytester.makepyfile(test_speed=ONE_CHECK.format(**values))

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*2 ranks need about *,* GiB, and this host has *; use a smaller model*"])


TWO_MORE = """
@pytest.mark.perf
def test_stopped(perf):
    raise {error}

@pytest.mark.perf
def test_later(perf):
    perf.check(RECIPE)
"""


@pytest.mark.parametrize(
    ("error", "options", "reason"),
    [
        pytest.param(
            "KeyboardInterrupt", (), "test_speed.py::test_stopped was interrupted before it was judged", id="interrupt"
        ),
        pytest.param("ValueError", ("-x",), "failed before a case was judged", id="-x"),
    ],
)
def test_a_session_that_is_cut_off_names_the_tests_it_did_not_run(
    project: Project, error: str, options: tuple[str, ...], reason: str
) -> None:
    project.pytester.makepyfile(test_speed=PERF_TEST + TWO_MORE.format(error=error))

    with suppress(KeyboardInterrupt):  # pytester passes it on
        project.run(*options)

    assert project.case()["nodeid"] == "test_speed.py::test_speed"
    assert {each["nodeid"]: each["reason"] for each in project.results()["not_run"]} == {
        "test_speed.py::test_stopped": reason,
        "test_speed.py::test_later": "not reached: the session ended before",
    }


def test_every_third_step_being_slow_is_a_regression_though_the_median_stays(project: Project) -> None:
    project.run()
    project.edit("steps.py", {"with open": "usual = seconds\nwith open"})
    vary_steps(project, "usual * (10 if step % 3 == 0 else 1)")

    result = project.run()

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"REGRESSED {CASE}: * 0.0% against 2,560; 78.3% lost with slow steps *",
            "8 of 20 steps are 10 times as slow as the rest (0 of 10 in the baseline)*",
            "tokens/sec/GPU is 0.0% * the baseline (*",
            "*steps far slower than the rest, kept: 6 now, 0 in the baseline",
        ],
    )
    assert has_text(result, "the mean step takes 460 ms, 100 ms in the baseline")
