"""--perf-replay and ``nemoperf judge``: judge stored runs as their session did."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.cli.main import main
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import from_json, to_json_line
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_records
from tests.integration.conftest import CASE, Project, has_text, usage_error
from tests.runs.stored_runs import store_case

SECONDS = {"slower": 0.2, "faster": 0.05}
TESTS = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
@pytest.mark.parametrize("name", ["same", "slower", "faster", "wrong", "late", "torn", "other", "finer"])
def test_speed(perf, name):
    perf.check(Recipe(
        model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4, precision="fp32",
        framework="command", command=("train", name),
        variant=name, tolerances={"all": 1.0} if name == "finer" else {},
    ))

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=8) as steps:
        for step in steps:
            pass
"""
ON_GPUS = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
def test_gpus(perf):
    layouts = {"h100": Layout(gpus=8, dp_shard=8)}
    perf.check(Recipe(model="llama3-8b-twin", layouts=layouts, seq_len=64, global_batch_size=8))
"""
KINDS = {
    "same": "PASSED",
    "slower": "REGRESSED",
    "faster": "IMPROVED",
    "wrong": "INVALID",
    "late": "PASSED",
    "torn": "INVALID",
    "other": "NOT COMPARABLE",
    "finer": "INCONCLUSIVE",
}


def case_of(name: str) -> str:
    return f"{CASE}-{name}"


def verdicts_of(project: Project) -> dict[str, Any]:
    """Return the verdicts of the last session by case, without the reason why nothing was compared side by side.

    A session has it, and those who judge its runs again don't.
    """
    verdicts = {}
    for case in project.results()["cases"]:
        verdict = case["verdict"]
        verdict["reasons"] = [text for text in verdict["reasons"] if not text.startswith("not compared side by side")]
        verdicts[verdict["case"]] = verdict
    return verdicts


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def train(steps_file: Path, *, plan: Plan, mode: str) -> None:
    """Write the records of a command: slow, wrong, torn, or settled only in the second try."""
    times = [SECONDS.get(mode, 0.1)] * plan.total_steps
    if mode == "late" and not steps_file.parent.name.endswith("b"):
        times = [0.1 * (1 + 0.1 * step) for step in range(plan.total_steps)]
    loss = math.nan if mode == "wrong" else 6.5
    text = "".join(map(to_json_line, make_records(plan, times=times, loss=loss, rank_times_sec=())))
    if mode == "torn":
        text += '{"step": 13'
    steps_file.write_text(text)


@pytest.fixture
def launch_as(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replace launches by records written at once: all alike, or by variant."""

    def launch_as(*, is_by_variant: bool) -> None:
        def launch(_self: object, command: RankCommand, *, run_dir: Path, **_rest: object) -> LaunchResult:
            plan = from_json(Plan, (run_dir / "plan.json").read_bytes(), subject="plan")
            mode = command.argv[-1] if is_by_variant else ""
            train(Path(command.env["NEMOPERF_STEPS"]), plan=plan, mode=mode)
            return LaunchResult(status=LaunchStatus.OK, failures=(), logs=())

        monkeypatch.setattr(LocalLauncher, "launch", launch)

    return launch_as


@pytest.fixture
def session(project: Project, launch_as: Callable[..., None]) -> Path:
    """Return the folder of a session with every kind of verdict."""
    project.pytester.makepyfile(test_speed=TESTS)
    launch_as(is_by_variant=False)
    project.run("--update-baselines", "-k", "not loop")
    edit(project.root / "baselines" / "cpu" / f"{case_of('other')}.json", {"machine": {"cpu": "another"}})
    shutil.rmtree(project.root / ".nemoperf")
    launch_as(is_by_variant=True)
    project.run("-k", "not loop")
    (folder,) = (project.root / ".nemoperf" / "runs").iterdir()
    return folder


def edit(path: Path, changes: Mapping[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_advice(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return a verdict without its texts: they recommend options, and a session that launches has other ones."""
    comparisons = [{**each, "note": ""} for each in verdict["comparisons"]]
    return {**verdict, "reasons": len(verdict["reasons"]), "comparisons": comparisons}


def test_stored_runs_get_their_sessions_verdict(
    project: Project, session: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = verdicts_of(project)
    provenance = project.results()["provenance"]
    baselines = files_below(project.root / "baselines")
    judged = {}
    for name, kind in KINDS.items():
        capsys.readouterr()
        case = case_of(name)
        baseline = project.root / "baselines" / "cpu" / f"{case}.json"
        code = main(["judge", "--json", f"--baseline={baseline}", str(session / case)])
        assert verdicts[case]["kind"] == kind
        assert code == (kind in {"REGRESSED", "INVALID"}), name
        judged[case] = json.loads(capsys.readouterr().out)["verdict"]
    monkeypatch.setattr(LocalLauncher, "launch", None)
    shutil.rmtree(project.root / ".nemoperf" / "baselines")

    result = project.run(f"--perf-replay={session}")

    replayed = verdicts_of(project)
    assert replayed == judged
    assert {case: without_advice(verdict) for case, verdict in replayed.items()} == {
        case: without_advice(verdict) for case, verdict in verdicts.items()
    }
    assert project.results()["replay_of"] == str(session.relative_to(project.root))
    assert project.results()["provenance"] == provenance
    result.assert_outcomes(passed=5, failed=3, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "perf: replay of .nemoperf/runs/*: *nothing is launched or stored",
            "replay: runs stored in .nemoperf/runs/*, judged again",
            "*1 test: replay: a loop of the test process leaves no runs *",
        ]
    )
    assert files_below(project.root / "baselines") == baselines
    assert not (project.root / ".nemoperf" / "baselines").exists()
    assert list((project.root / ".nemoperf" / "runs").iterdir()) == [session]


@pytest.fixture
def stored(project: Project, launch_as: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a session of one case, stored as its baseline; later sessions can't launch."""
    launch_as(is_by_variant=False)
    project.run("--update-baselines")
    monkeypatch.setattr(LocalLauncher, "launch", None)
    (folder,) = (project.root / ".nemoperf" / "runs").iterdir()
    return folder


def test_a_case_that_is_not_stored_is_skipped_and_named(project: Project, stored: Path) -> None:
    other = stored / "other"
    (stored / CASE).rename(other)

    result = project.run(f"--perf-replay={stored}")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["  1 test: no runs of", f"  {CASE} are stored in", f"  {stored.name}"])


def test_this_sessions_options_count_and_not_the_stored_ones(project: Project, stored: Path) -> None:
    result = project.run(f"--perf-replay={stored}", "--perf-tolerance=0.5", "--perf-fail-on=inconclusive")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*too much noise for 1 baseline run*", "*--perf-replay=.nemoperf/runs/*"])
    result.stdout.no_fnmatch_line("*--perf-accept-regression*")
    result.stdout.no_fnmatch_line("*--update-baselines --*")
    result.stdout.no_fnmatch_line("*--perf-ab*")


def test_runs_are_judged_as_of_the_machine_they_ran_on(project: Project, stored: Path) -> None:
    elsewhere = {"machine": {"cpu": "another", "cores": 64}}
    edit(stored / CASE / "case.json", elsewhere)
    edit(project.baseline, elsewhere)

    result = project.run(f"--perf-replay={stored}")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"PASSED {CASE}:*"])
    assert project.results()["machine"] == elsewhere["machine"]


def test_a_case_of_another_system_is_not_judged_as_this_ones(project: Project, stored: Path) -> None:
    for path in [stored / CASE / "case.json", *stored.glob("*/*/plan.json")]:
        edit(path, {"system": "h100"})

    result = project.run(f"--perf-replay={stored}", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*holds runs of system h100, not cpu*"])


def test_a_torn_file_fails_the_test_by_its_name(project: Project, stored: Path) -> None:
    path = stored / CASE / "run-1" / "steps.jsonl"
    path.write_bytes(path.read_bytes()[:-20])

    result = project.run(f"--perf-replay={stored}")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"RecordError: {path}*: half a line*"])


def test_the_results_name_the_machine_of_the_runs_though_they_are_torn(project: Project, stored: Path) -> None:
    edit(stored / CASE / "case.json", {"machine": {"cpu": "another", "cores": 64}})
    (stored / CASE / "run-1" / "steps.jsonl").unlink()

    project.run(f"--perf-replay={stored}")

    assert project.results()["machine"] == {"cpu": "another", "cores": 64}


def test_launches_that_did_not_end_are_nothing_to_pass_by(project: Project, stored: Path) -> None:
    (stored / "other").mkdir()
    (stored / CASE / "case.json").rename(stored / "other" / "case.json")

    result = project.run(f"--perf-replay={stored}")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"RecordError: {stored / CASE}: has no case.json*"])


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_that_holds_no_session_is_refused(project: Project, folder: str) -> None:
    result = project.run(f"--perf-replay={folder}")

    assert f"--perf-replay={folder}: holds no <case>/case.json" in usage_error(result)


def test_runs_of_two_systems_are_judged_one_system_at_a_time(project: Project) -> None:
    stored = project.root / "from-ci"
    for system in ("a100", "h100"):
        recipe = Recipe(model="llama-tiny", layouts={system: Layout(gpus=1)}, seq_len=64, global_batch_size=4)
        store_case(stored / system, plan=resolve(recipe, system=find_system(system)))

    result = project.pytester.runpytest_inprocess("-m", "perf", f"--perf-replay={stored}")

    assert "holds runs of a100 and h100; choose one with --system" in usage_error(result)


@pytest.mark.parametrize("other", ["--update-baselines", "--perf-inject=20%", "--perf-dry-run"])
def test_options_that_need_launches_are_refused(project: Project, other: str) -> None:
    assert "--perf-replay" in usage_error(project.run("--perf-replay=.", other))


def test_a_laptop_judges_runs_of_a_gpu_machine(project: Project) -> None:
    project.pytester.makepyfile(test_speed=ON_GPUS)
    layouts = {"h100": Layout(gpus=8, dp_shard=8)}
    recipe = Recipe(model="llama3-8b-twin", layouts=layouts, seq_len=64, global_batch_size=8)
    plan = resolve(recipe, system=find_system("h100"))
    stored = project.root / "from-ci"
    store_case(stored / plan.case, plan=plan, machine={"device": "NVIDIA H100 80GB HBM3", "gpus": 8})

    result = project.pytester.runpytest_inprocess("-m", "perf", f"--perf-replay={stored}")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["perf: system h100 (of the stored runs: *", "perf: replay of from-ci:*", f"NO BASELINE {plan.case}:*"]
    )
    assert has_text(result, "a replay stores nothing; --perf-baselines=DIR judges by")
    result.stdout.no_fnmatch_line("*--update-baselines*")
    assert project.results()["machine"]["device"] == "NVIDIA H100 80GB HBM3"
