from __future__ import annotations

import json
from contextlib import suppress

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.schema import validate
from tests.integration.conftest import CASE, Project


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


def test_a_slower_run_fails_with_numbers_and_commands(project: Project) -> None:
    project.run()
    project.set_step_time(0.15)

    result = project.run()

    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*tokens/sec/GPU is 33.3% below the baseline (1,707 against 2,560; allowed 20.0%)*",
            "*pytest -m perf --system=cpu test_speed.py::test_speed*",
            "*--update-baselines*",
        ]
    )


def test_a_faster_run_is_improved_and_passes(project: Project) -> None:
    project.run()
    project.set_step_time(0.05)

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"*IMPROVED*{CASE}*"])


def test_the_results_file_and_the_markdown_table_are_written(project: Project) -> None:
    project.run()

    latest = project.root / ".nemoperf" / "latest"
    results = json.loads((latest / "results.json").read_text())
    validate(results, name="results", subject="results.json", error=RecordError)
    assert [case["verdict"]["kind"] for case in results["cases"]] == ["NO BASELINE"]
    assert "| Model | #-GPUs | GBS | MBS | Sequence Length |" in (latest / "results.md").read_text()


def test_junit_properties_carry_the_verdict(project: Project) -> None:
    project.run("--junitxml=junit.xml")

    assert 'value="NO BASELINE"' in (project.root / "junit.xml").read_text()


def test_a_recipe_without_a_layout_for_the_system_skips_and_says_so(project: Project) -> None:
    source = project.root / "test_speed.py"
    source.write_text(source.read_text().replace('"cpu"', '"h100"'))

    result = project.run("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*no layout for system cpu*"])


def test_two_tests_may_not_share_a_case(project: Project) -> None:
    source = project.root / "test_speed.py"
    source.write_text(source.read_text() + "\n@pytest.mark.perf\ndef test_again(perf):\n    perf.check(RECIPE)\n")

    result = project.run()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*belongs to test_speed.py::test_speed already*give one recipe a variant*"])


def test_run_and_compare_apart_do_what_check_does(project: Project) -> None:
    source = project.root / "test_speed.py"
    text = source.read_text().replace(
        "perf.check(RECIPE)",
        "measurement = perf.run(RECIPE)\n"
        "    assert measurement.runs[0].metrics['tokens_per_sec_per_gpu'] > 1\n"
        "    assert perf.compare(measurement).kind == 'NO BASELINE'",
    )
    source.write_text(text)

    project.run().assert_outcomes(passed=1)


def test_a_perf_test_that_judges_nothing_is_named(project: Project) -> None:
    project.pytester.makepyfile(test_speed="import pytest\n@pytest.mark.perf\ndef test_nothing(perf):\n    pass\n")

    result = project.run()

    result.stdout.fnmatch_lines(["*judged nothing*"])


def test_a_corrupt_baseline_fails_and_is_kept(project: Project) -> None:
    project.baseline.parent.mkdir(parents=True)
    project.baseline.write_text('{"case": "pre')

    result = project.run("--update-baselines")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{CASE}.json: not JSON, truncated or corrupt*"])
    assert project.baseline.read_text() == '{"case": "pre'


def test_a_run_that_has_not_settled_is_launched_once_more(project: Project) -> None:
    script = project.root / "steps.py"
    source = script.read_text().replace(
        "record = {", "seconds = base * (3 if first and step >= 8 else 1)\n        record = {"
    )
    first = "tried = pathlib.Path('tried')\nfirst, base = not tried.exists(), seconds\ntried.touch()\n"
    script.write_text(source.replace("with open", f"{first}with open"))

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*run 1 is dropped and launched again: the steps have not settled*"])


def test_a_run_that_never_settles_is_invalid(project: Project) -> None:
    script = project.root / "steps.py"
    script.write_text(
        script.read_text().replace("record = {", "seconds = 0.1 if step < 8 else 0.3\n        record = {")
    )

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*INVALID*the steps have not settled*look for throttling*"])


def drift_by_turns(project: Project) -> None:
    """Let every try of a run drift the other way than the one before."""
    script = project.root / "steps.py"
    count = "tries = pathlib.Path('tries')\nnumber = int(tries.read_text()) if tries.exists() else 0\n"
    count += "tries.write_text(str(number + 1))\nbase = seconds\n"
    drift = (
        "seconds = base * ((1.5 if step >= 8 else 1) if number % 2 else (0.7 if step >= 10 else 1))\n        record = {"
    )
    script.write_text(script.read_text().replace("with open", f"{count}with open", 1).replace("record = {", drift))


def test_a_first_run_on_a_restless_machine_is_recorded_with_the_noise_it_saw(project: Project) -> None:
    drift_by_turns(project)

    result = project.run()

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*NO BASELINE*", "*the machine was restless: its speed changed within run 1 by *"])
    (path,) = (project.root / ".nemoperf" / "baselines").rglob(f"{CASE}.json")
    assert abs(json.loads(path.read_text())["runs"][0]["drift_pct"]) > 10


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
    (folder,) = [path for path in (project.root / ".nemoperf" / "runs").iterdir() if list(path.glob("*/run-1c"))]

    result = project.run("--perf-tolerance=5%", "--perf-max-runs=1", f"--perf-replay={folder}")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*INCONCLUSIVE*", "*the machine was restless*"])


def test_a_recipe_that_can_not_be_shows_the_tests_line_and_no_frame_of_the_plugin(project: Project) -> None:
    project.pytester.makepyfile(
        test_speed="""
        import pytest
        from pytest_nemoperf import Layout, Recipe

        @pytest.mark.perf
        def test_speed(perf):
            perf.check(Recipe(model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=0, global_batch_size=1))
        """
    )

    result = project.run()

    result.assert_outcomes(failed=1)
    error = "E*RecipeError: seq_len=0 must be a whole number >= 1"
    result.stdout.fnmatch_lines([">*perf.check(Recipe(*seq_len=0*", error])
    result.stdout.no_fnmatch_line("*recipe.py*")


@pytest.mark.ranks
def test_what_this_hosts_memory_can_not_hold_is_not_launched(project: Project) -> None:
    project.pytester.makepyfile(
        test_speed="""
        import pytest
        from pytest_nemoperf import Layout, Recipe

        @pytest.mark.perf
        def test_speed(perf):
            perf.check(Recipe(
                model="llama3.1-405b", layouts={"cpu": Layout(gpus=2, dp_shard=2)}, seq_len=8192, global_batch_size=2,
            ))
        """
    )

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*its 2 ranks need about *,* GB, and this host has * GB; use a smaller model*"])


TWO_MORE = """
@pytest.mark.perf
def test_stopped(perf):
    raise {error}

@pytest.mark.perf
def test_later(perf):
    perf.check(RECIPE)
"""


@pytest.mark.parametrize(
    ("error", "options", "reasons"),
    [
        pytest.param(
            "KeyboardInterrupt",
            (),
            {
                "test_speed.py::test_stopped": "test_speed.py::test_stopped was interrupted before it was judged",
                "test_speed.py::test_later": "not reached: the session ended before",
            },
            id="interrupted",
        ),
        pytest.param(
            "ValueError",
            ("-x",),
            {
                "test_speed.py::test_stopped": "failed before a case was judged",
                "test_speed.py::test_later": "not reached: the session ended before",
            },
            id="-x",
        ),
    ],
)
def test_a_session_that_is_cut_off_names_what_it_did_not_run(
    project: Project, error: str, options: tuple[str, ...], reasons: dict[str, str]
) -> None:
    source = project.root / "test_speed.py"
    source.write_text(source.read_text() + TWO_MORE.format(error=error))

    with suppress(KeyboardInterrupt):  # pytester passes it on
        project.run(*options)

    results = json.loads((project.root / ".nemoperf" / "latest" / "results.json").read_text())
    assert [case["nodeid"] for case in results["cases"]] == ["test_speed.py::test_speed"]
    assert {each["nodeid"]: each["reason"] for each in results["not_run"]} == reasons


def test_every_third_step_being_slow_is_a_regression_though_the_median_stays(project: Project) -> None:
    project.run()
    script = project.root / "steps.py"
    script.write_text(
        script.read_text()
        .replace("with open", "usual = seconds\nwith open")
        .replace("        record =", "        seconds = usual * (10 if step % 3 == 0 else 1)\n        record =")
    )

    result = project.run()

    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"REGRESSED {CASE}: 2,560 tokens/sec/GPU, 0.0% against 2,560; 78.3% lost with slow steps counted; *",
            "8 of 20 steps are 10 times as slow as the rest (0 of 10 in the baseline); the",
            "mean step takes 460 ms, 100 ms in the baseline; allowed 20%",
            "tokens/sec/GPU is 0.0% * the baseline (*",
            "*steps far slower than the rest, kept: 6 now, 0 in the baseline",
        ],
    )
