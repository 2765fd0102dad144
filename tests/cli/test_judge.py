from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_nemoperf.baselines.baseline import from_measurement
from pytest_nemoperf.cli.main import main
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.runs.replay import load_case, measure_stored
from pytest_nemoperf.schema import schema_of
from pytest_nemoperf.verdict.waivers import parse_waiver
from tests.builders import MACHINE, make_plan, make_provenance
from tests.runs.stored_runs import store_case

PLAN = make_plan(timeout_sec=60.0)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    """Return a baseline of three runs of 100 ms, lying outside its folder."""
    store_case(tmp_path / "before", plan=PLAN, times=(0.1, 0.1, 0.1))
    measurement = measure_stored(load_case(tmp_path / "before"), framework=TorchFramework())
    path = tmp_path / "copy.json"
    stored = from_measurement(measurement, machine=MACHINE, provenance=make_provenance(), reason="test")
    path.write_text(to_json(stored))
    return path


def case_of(tmp_path: Path, *, times: tuple[float, ...]) -> Path:
    store_case(tmp_path / "now", plan=PLAN, times=times)
    return tmp_path / "now"


def judge(*words: object) -> int:
    return main(["judge", *map(str, words)])


def test_a_passed_case_is_shown_with_all_that_its_verdict_rests_on(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case_dir = case_of(tmp_path, times=(0.1,))

    code = judge("--baseline", baseline, case_dir)

    output = capsys.readouterr().out
    assert code == 0
    assert output.startswith(f"PASSED {PLAN.case}\n")
    for part in (
        "95% interval",
        "what it lets this case find",
        "where the step's time went",
        str(baseline),
        str(case_dir),
    ):
        assert part in output


@pytest.mark.parametrize(
    ("until", "code", "words"),
    [
        ("2999-12-31", 0, "waived until 2999-12-31: slow kernel: its test passes"),
        ("2020-12-31", 1, "WAIVER EXPIRED (REGRESSED)"),
        ("1.4", 0, "waived until release 1.4: slow kernel: its test passes"),
        ("1.3", 1, "the waiver expired with release 1.3 (perf_release is 1.3)"),
    ],
)
def test_the_waiver_of_the_test_counts_as_in_its_session(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str], until: str, code: int, words: str
) -> None:
    waiver = parse_waiver({"reason": "slow kernel", "until": until, "floor": 50}, subject="test")
    store_case(tmp_path / "now", plan=PLAN, times=(0.12, 0.12), waiver=waiver.arguments, release="1.3")

    found = judge("--baseline", baseline, tmp_path / "now")

    assert found == code
    assert words in capsys.readouterr().out


def test_a_waiver_needs_the_day_of_its_session(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiver = {"reason": "slow kernel", "until": "2999-12-31"}
    provenance = make_provenance(date="yesterday")
    store_case(tmp_path / "now", plan=PLAN, times=(0.12, 0.12), waiver=waiver, provenance=provenance)

    code = judge("--baseline", baseline, tmp_path / "now")

    assert code == 2
    assert "provenance.date: 'yesterday' is no date; write e.g. 2026" in capsys.readouterr().err


def test_a_loss_that_failed_the_session_fails_the_command(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case_dir = case_of(tmp_path, times=(0.12, 0.12))

    assert judge("--baseline", baseline, case_dir / "run-1", case_dir / "run-2") == 1
    assert capsys.readouterr().out.startswith(f"REGRESSED {PLAN.case}\n")


def test_tolerance_and_launches_can_be_others_than_the_sessions(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case_dir = case_of(tmp_path, times=(0.105, 0.105))

    assert judge("--baseline", baseline, "--tolerance=30%", "--tolerance=peak_memory_gib=7", "--json", case_dir) == 0
    case = json.loads(capsys.readouterr().out)
    assert {each["metric"]: each["allowed_pct"] for each in case["verdict"]["comparisons"]} == {
        "tokens_per_sec_per_gpu": 30.0,
        "tflops_per_sec_per_gpu": 30.0,
        "peak_memory_gib": 7.0,
    }
    assert judge("--baseline", baseline, "--tolerance=2", case_dir) == 1
    assert capsys.readouterr().out.startswith("REGRESSED")
    assert judge("--baseline", baseline, "--tolerance=4.7", case_dir) == 0
    assert "undecided with 2 runs: " in capsys.readouterr().out
    found = []
    for max_runs in (2, 5):
        judge("--baseline", baseline, "--tolerance=4.7", f"--max-runs={max_runs}", "--json", case_dir)
        found.append(json.loads(capsys.readouterr().out)["verdict"]["comparisons"][0]["finds_pct"])
    assert found[0] > found[1]


def test_one_launch_alone_fails_no_command(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case_dir = case_of(tmp_path, times=(0.2,))

    assert judge("--baseline", baseline, "--max-runs=1", case_dir) == 0

    output = capsys.readouterr().out
    assert output.startswith("INCONCLUSIVE")
    assert "never REGRESSED" in output


def test_json_is_a_case_of_the_results_file(tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge("--baseline", baseline, "--json", case_of(tmp_path, times=(0.1,)))

    case = json.loads(capsys.readouterr().out)
    assert set(case) == set(schema_of("results")["$defs"]["CaseResult"]["properties"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--tolerance=much"], "--tolerance='much' is not [METRIC=]PCT; write e.g. 5% or peak_memory_gib=10"),
        (["--tolerance=speed=3"], "--tolerance: 'speed' is not a judged metric; known: all"),
        (["--tolerance=0"], "--tolerance"),
        ([".."], "..: is a session's folder; give one of the cases in it"),
        (["--max-runs=0"], "0 must be a whole number >= 1"),
        (["nowhere"], "nowhere: no such folder; give <case>/run-<N> folders, or one <case>"),
    ],
)
def test_a_usage_error_is_one_line_and_exits_with_2(
    tmp_path: Path,
    baseline: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    problem: str,
) -> None:
    case_dir = case_of(tmp_path, times=(0.1,))
    monkeypatch.chdir(case_dir)

    try:
        code = judge("--baseline", baseline, case_dir / "run-1", *words)
    except SystemExit as exc:
        code = int(exc.code or 0)

    error = capsys.readouterr().err
    assert code == 2
    assert problem in error
    assert error.count("\n") == 1


def test_a_framework_of_a_plugin_is_left_to_pytest(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_case(tmp_path / "now", plan=make_plan(framework="mine"))

    assert judge("--baseline", baseline, tmp_path / "now") == 2
    assert "framework 'mine' is registered by a pytest plugin" in capsys.readouterr().err


def test_neither_torch_nor_pytest_is_imported(tmp_path: Path, baseline: Path) -> None:
    script = (
        "import sys; from pytest_nemoperf.cli.main import main; code = main(sys.argv[1:])\n"
        "print(sorted({'torch', 'pytest', '_pytest'} & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    argv = [sys.executable, "-c", script, "judge", f"--baseline={baseline}", str(case_of(tmp_path, times=(0.1,)))]

    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_advice_on_given_runs_names_no_option_of_a_session(
    tmp_path: Path, baseline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge("--baseline", baseline, "--tolerance=0.01", case_of(tmp_path, times=(0.11,)))

    output = " ".join(capsys.readouterr().out.split())
    assert "nemoperf record" in output
    assert "--perf-" not in output
    assert "--update-baselines" not in output


def test_text_of_a_log_is_no_command_of_a_github_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    folder = tmp_path / "##[error]x"
    folder.mkdir()

    judge(folder)

    captured = capsys.readouterr()
    assert "## [error]x" in captured.err
    assert "##[" not in captured.err + captured.out
