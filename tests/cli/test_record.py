from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines import files
from pytest_nemoperf.baselines.files import read_baseline
from pytest_nemoperf.cli.main import main
from tests.builders import make_plan, make_provenance
from tests.runs.job_logs import CASE, STEP_MS, write_megatron_log, write_recipe
from tests.runs.stored_runs import store_case


class Jobs:
    """A folder with a recipe and logs of its jobs, in which ``nemoperf record`` runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "baselines" / "h100" / f"{CASE}.json"
        self.recipe = write_recipe(folder / "recipe.json")

    def logs(
        self, name: str, *, loss_pct: float = 0.0, number: int = 5, first_day: int = 10, **changes: Any
    ) -> list[str]:
        """Write logs of days in a row, slower by a percentage, and return their names."""
        names = []
        for at in range(number):
            names.append(f"{name}{at + 1}.log")
            step_ms = STEP_MS * (1 + loss_pct / 100) * (1 + 0.001 * (at % 2))
            write_megatron_log(self.folder / names[-1], step_ms=step_ms, day=first_day + at, **changes)
        return names

    def record(self, logs: list[str], *words: str) -> int:
        return main(["record", "--recipe", "recipe.json", *words, "--log", *logs])

    def stored(self) -> Mapping[str, Any]:
        data: Mapping[str, Any] = json.loads(self.path.read_text())
        return data


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.chdir(tmp_path)
    return Jobs(tmp_path)


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_baseline_of_logs_says_that_it_is_one(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--commit", "0123456789ab", "--version", "torch=2.9.1", "--reason", "first week on the new nodes"]

    code = jobs.record(jobs.logs("then"), *words)

    output = capsys.readouterr().out
    assert code == 0
    assert output.startswith(f"{CASE}\nNO BASELINE: nothing is stored for this case in baselines\n")
    assert f"baselines written\n  baselines/h100/{CASE}.json\n    new: 8,7" in output
    baseline = read_baseline(jobs.path)
    assert baseline.machine == {"device": "NVIDIA H100 80GB HBM3", "memory_gib": 80}
    assert [run.session for run in baseline.runs] == [f"2026-11-{day}" for day in range(10, 15)]
    assert baseline.reason == "first week on the new nodes"
    assert baseline.workload["log_format"] == "megatron"
    origin = baseline.provenance
    assert origin.source == "5 logs (megatron): then1.log, then2.log, then3.log, then4.log, then5.log"
    assert origin.date.startswith("2026-11-14T08:")
    assert (origin.git_commit, origin.git_dirty) == ("0123456789ab", None)
    assert origin.versions == {"torch": "2.9.1"}
    assert origin.device == "8x NVIDIA H100 80GB HBM3"
    assert origin.command.startswith("nemoperf record --recipe recipe.json --commit 0123456789ab")


def test_what_is_not_stated_is_not_known(jobs: Jobs) -> None:
    jobs.record(jobs.logs("then"))

    origin = read_baseline(jobs.path).provenance
    assert (origin.git_commit, origin.git_dirty, origin.versions, origin.driver) == (None, None, {}, "")


def test_a_loss_is_stored_only_if_it_is_accepted_with_a_reason(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record(jobs.logs("then"))
    before = jobs.path.read_text()
    logs = jobs.logs("now", loss_pct=12.0)
    capsys.readouterr()

    assert jobs.record(logs) == 1
    output = flat(capsys.readouterr().out)
    assert output.startswith(f"REGRESSED {CASE}")
    assert "1 case: REGRESSED is stored only with --accept-regression --reason=TEXT" in output
    assert jobs.path.read_text() == before
    assert jobs.record(logs, "--accept-regression", "--reason", "the new tokenizer costs 12%") == 0
    assert jobs.stored()["reason"] == "the new tokenizer costs 12%"
    assert "tokens/sec/GPU: 8,7" in capsys.readouterr().out


def test_a_gain_replaces_the_baseline_and_the_same_speed_keeps_it(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.record(jobs.logs("then"))
    before = jobs.path.read_text()

    assert jobs.record(jobs.logs("same", first_day=20)) == 0
    assert jobs.path.read_text() == before
    assert "nothing moved more than its own noise" in flat(capsys.readouterr().out)
    assert jobs.record(jobs.logs("faster", loss_pct=-12.0)) == 0
    assert jobs.stored()["provenance"]["source"].endswith("faster5.log")


def test_fewer_logs_of_the_same_speed_replace_nothing(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record(jobs.logs("then"))
    capsys.readouterr()

    assert jobs.record(jobs.logs("same", number=4, first_day=20)) == 0

    assert "5 runs that show no loss are not replaced by fewer; give as many" in flat(capsys.readouterr().out)


def test_logs_of_other_days_stand_beside_the_stored_ones_once(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record(jobs.logs("then"))
    more = jobs.logs("more", number=2, first_day=20)

    assert jobs.record(more, "--add-session") == 0
    assert [run["session"] for run in jobs.stored()["runs"]][-3:] == ["2026-11-14", "2026-11-20", "2026-11-21"]
    assert jobs.record(more, "--add-session") == 2
    assert "--add-session: more1.log is run 6 of the baseline already; leave it out" in capsys.readouterr().err


def test_slower_days_of_the_very_commit_are_a_session_of_their_own(jobs: Jobs) -> None:
    commit = ["--commit", "0123456789ab"]
    jobs.record(jobs.logs("then"), *commit)
    logs = jobs.logs("now", loss_pct=5.0, number=2, first_day=20)

    assert jobs.record(logs, "--add-session", "--commit", "89abcdef0123") == 1
    assert jobs.record(logs, "--add-session", *commit) == 0
    assert len(jobs.stored()["runs"]) == 7


def test_faster_logs_that_are_not_added_as_a_session_are_refused(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs.record(jobs.logs("then"))
    before = jobs.path.read_text()
    capsys.readouterr()

    code = jobs.record(jobs.logs("faster", loss_pct=-12.0, first_day=20), "--add-session")

    assert code == 1
    assert "without --add-session these runs would replace the stored ones" in flat(capsys.readouterr().out)
    assert jobs.path.read_text() == before


def test_a_release_makes_the_logs_its_anchor(jobs: Jobs) -> None:
    jobs.record(jobs.logs("then"), "--anchor", "1.4")

    assert jobs.stored()["anchor"]["name"] == "1.4"


def test_invalid_logs_never_become_a_baseline(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    code = jobs.record(jobs.logs("odd", batch=256))

    output = flat(capsys.readouterr().out)
    assert code == 1
    assert output.startswith(f"INVALID {CASE} run 1: step 3 has 2097152 tokens, 1048576 were asked for")
    assert "an INVALID case is never stored" in output
    assert not jobs.path.exists()


def test_logs_that_do_not_compare_with_a_sessions_baseline_do_not_take_its_place(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    topology = ["--machine", "topology=NV18"]
    jobs.record(jobs.logs("then"), *topology)
    data = jobs.stored()
    data["provenance"]["source"] = ""
    jobs.path.write_text(json.dumps(data))
    logs = jobs.logs("now", loss_pct=12.0)
    capsys.readouterr()

    assert jobs.record(logs) == 2
    error = capsys.readouterr().err
    assert "a session measured it, and logs that don't compare with it would take its place unjudged" in error
    assert "topology is the default, 'NV18' in the baseline" in error
    assert "add --machine topology=NV18" in error
    assert jobs.stored() == data
    assert jobs.record(logs, *topology) == 1
    assert capsys.readouterr().out.startswith("REGRESSED")


def test_logs_of_another_workload_replace_those_of_the_old_one(jobs: Jobs) -> None:
    jobs.record(jobs.logs("then"))
    write_recipe(jobs.recipe, seed=7)

    assert jobs.record(jobs.logs("now", loss_pct=12.0)) == 0
    assert jobs.stored()["workload"]["seed"] == 7


def test_json_has_the_file_that_was_written(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.record(jobs.logs("then"), "--json", "--baselines", "elsewhere")

    case = json.loads(capsys.readouterr().out)
    assert case["stored_path"] == f"elsewhere/h100/{CASE}.json"
    assert Path(case["stored_path"]).exists()


def test_an_interrupt_leaves_the_old_file_and_no_traceback(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.record(jobs.logs("then"))
    before = jobs.path.read_text()

    def interrupted(path: Path, **_: Any) -> None:
        path.with_suffix(".half").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomically", interrupted)
    code = jobs.record(jobs.logs("faster", loss_pct=-12.0))

    assert code == 130
    assert capsys.readouterr().err == "nemoperf: interrupted\n"
    assert jobs.path.read_text() == before


def test_stored_runs_become_a_baseline_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(timeout_sec=60.0)
    provenance = make_provenance(date="2026-11-20T10:00:00+00:00")
    store_case(tmp_path / "runs", plan=plan, times=(0.1, 0.101, 0.1), provenance=provenance)
    folder = tmp_path / "baselines"

    assert main(["record", "--baselines", str(folder), str(tmp_path / "runs")]) == 0
    baseline = read_baseline(folder / "cpu" / f"{plan.case}.json")
    assert baseline.provenance == provenance
    assert len(baseline.runs) == 3
    store_case(tmp_path / "slow", plan=plan, times=(0.15, 0.15, 0.15))
    capsys.readouterr()
    assert main(["record", "--baselines", str(folder), str(tmp_path / "slow")]) == 1
    assert "REGRESSED is stored only with --accept-regression --reason=TEXT" in flat(capsys.readouterr().out)


def test_a_broken_baseline_is_kept(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    jobs.path.parent.mkdir(parents=True)
    jobs.path.write_text("{")

    assert jobs.record(jobs.logs("then")) == 2
    assert f"{CASE}.json: not JSON: " in capsys.readouterr().err
    assert jobs.path.read_text() == "{"


def test_another_case_is_left_alone(jobs: Jobs) -> None:
    jobs.record(jobs.logs("then"))
    other = read_baseline(jobs.path)
    write_recipe(jobs.recipe, variant="tuned")

    assert jobs.record(jobs.logs("then")) == 0
    assert sorted(path.stem for path in jobs.path.parent.iterdir()) == [CASE, f"{CASE}-tuned"]
    assert read_baseline(jobs.path) == other


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--accept-regression", "--accept-regression needs --reason=TEXT: say why the loss is acceptable"),
        ("--accept-regression --reason= ", "--accept-regression needs --reason=TEXT"),
        ("--accept-regression --reason=x --add-session", "--add-session with --accept-regression"),
        ("--add-session --anchor 1.4", "--add-session with --anchor"),
        ("--baselines recipe.json", "--baselines=recipe.json: is no folder"),
        ("--baselines ro/baselines", "cannot be written"),
    ],
)
def test_a_usage_error_is_one_line_and_exits_with_2(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], words: str, problem: str
) -> None:
    (jobs.folder / "ro").touch()

    code = jobs.record(jobs.logs("then", number=1), *words.split())

    error = capsys.readouterr().err
    assert code == 2
    assert problem in error
    assert error.count("\n") == 1


def test_a_long_case_id_is_not_folded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    plan = make_plan()
    store_case(tmp_path / "runs" / plan.case, plan=plan)

    main(["record", str(tmp_path / "runs" / plan.case)])

    assert plan.case in capsys.readouterr().out.splitlines()
