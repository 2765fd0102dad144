"""--perf-against=published: cases are judged by rows of published pages, and nothing is stored."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_nemoperf.machine import identity
from pytest_nemoperf.machine.identity import Devices
from pytest_nemoperf.published import baselines, files
from pytest_nemoperf.published.row import ExcludedRow, PublishedRows
from tests.integration.conftest import Project, has_text, usage_error

AGAINST = "--perf-against=published"
TOKENS_PER_STEP = 128 * 8192
PRINTED = 14451.0  # LLAMA3_8B, FP8-CS, 8 GPUs of DGX-H100: row pt0281 of Megatron-Bridge 25.11
TEST = """
import pathlib, sys
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
@pytest.mark.parametrize("mbs", [1, 2])
def test_promised(perf, mbs):
    perf.check(Recipe(
        model="llama3-8b", layouts={"h100": Layout(gpus=8, dp_shard=8)}, seq_len=8192, global_batch_size=128,
        micro_batch_size=mbs, precision="fp8_cs", framework="command", flops_convention="megatron-bridge-25.09",
        command=(sys.executable, str(pathlib.Path(__file__).with_name("steps.py"))),
    ))
"""


@pytest.fixture
def h100s(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project on a machine with eight H100s, as far as the session can tell."""
    names = ("NVIDIA H100 80GB HBM3",) * 8
    devices = Devices(kind="cuda", names=names, memory_bytes=(80 * 2**30,) * 8)
    monkeypatch.setattr(identity, "detect_devices", lambda: devices)
    project.pytester.makepyfile(test_speed=TEST)
    project.pytester.makeini("[pytest]\nperf_runs = 1\n")
    return project


def run(project: Project, *args: str, rate: float = PRINTED, select: str = "1]") -> pytest.RunResult:
    """Run the test at so many tokens/sec/GPU."""
    project.set_step_time(TOKENS_PER_STEP / (8 * rate))
    return project.pytester.runpytest_inprocess(
        "-m", "perf", "--system=h100", "-p", "no:cacheprovider", "-p", "no:rerunfailures", "-k", select, *args
    )


def test_the_published_speed_passes_and_nothing_is_stored(h100s: Project) -> None:
    result = run(h100s, AGAINST)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "perf: judged by matching rows of published pages, nothing is stored, tolerance 3%",
            "1 of 1 judged by a published value; nothing is stored",
            "  https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/*/docs/performance-summary.md",
        ]
    )
    assert not (h100s.root / "baselines").exists()
    assert not (h100s.root / ".nemoperf" / "baselines").exists()


def test_results_name_the_row_its_release_and_address(h100s: Project) -> None:
    run(h100s, AGAINST)

    assert h100s.results()["against"] == "published"
    case = h100s.case()
    assert (case["published"]["row"], case["published"]["release"]) == ("pt0281", "25.11")
    assert case["baseline_path"] == case["published"]["url"]
    reasons = " ".join(case["verdict"]["reasons"])
    assert "one published value without spread: row pt0281 of NVIDIA-NeMo/Megatron-Bridge 25.11" in reasons
    assert "published for Megatron-Bridge 25.11; this ran in command" in reasons
    page = (h100s.latest / "results.md").read_text()
    assert "judged by row pt0281 of NVIDIA-NeMo/Megatron-Bridge 25.11" in page
    assert "Judged by matching rows of published pages" in page


def test_less_than_was_promised_fails_with_the_source(h100s: Project) -> None:
    result = run(h100s, AGAINST, rate=0.8 * PRINTED)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "REGRESSED pretrain-llama3-8b-*",
            "  metric * published * now *",
            "noise, and what it lets this case find (one published value)",
            "published value",
            "  https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/*/docs/performance-summary.md",
        ]
    )
    assert has_text(result, "20.0% below the value published in NVIDIA-NeMo/Megatron-Bridge 25.11")
    result.stdout.fnmatch_lines(["  pytest -m perf --system=h100 --perf-against=published *"])
    for missing in ("suspects", "times apart", "where the step's time went", "--update-baselines", "side by side"):
        result.stdout.no_fnmatch_line(f"*{missing}*")


def test_the_summary_of_a_job_marks_the_published_value(
    h100s: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))

    result = run(h100s, AGAINST, "--junitxml=junit.xml", rate=0.8 * PRINTED)

    assert "| tokens/sec/GPU (published) | 14,451 | 11,561 |" in summary.read_text()
    result.stdout.fnmatch_lines(["::error file=*row pt0281 of NVIDIA-NeMo/Megatron-Bridge 25.11*"])
    junit = (h100s.root / "junit.xml").read_text()
    assert 'name="nemoperf_published" value="NVIDIA-NeMo/Megatron-Bridge 25.11 pt0281"' in junit


def test_more_than_was_promised_is_an_improvement_without_advice_to_store(h100s: Project) -> None:
    result = run(h100s, AGAINST, rate=1.3 * PRINTED)

    assert h100s.case()["verdict"]["kind"] == "IMPROVED"
    result.stdout.no_fnmatch_line("*--update-baselines*")


def test_a_case_without_a_row_is_launched_once_and_told_the_nearest(h100s: Project) -> None:
    result = run(h100s, AGAINST, select="2]")

    result.assert_outcomes(passed=1)
    case = h100s.case()
    assert case["verdict"]["kind"] == "NO BASELINE"
    assert "there micro_batch_size is 1, not 2" in case["verdict"]["reasons"][0]
    assert (case["published"], case["baseline_path"], case["stored_path"]) == (None, "", "")
    assert len(case["measurement"]["runs"]) == 1
    result.stdout.no_fnmatch_line("*--update-baselines*")


def test_cases_larger_than_the_machine_are_skipped_with_one_reason(h100s: Project) -> None:
    h100s.edit("test_speed.py", {"gpus=8, dp_shard=8": "gpus=64, dp_shard=64"})

    result = run(h100s, AGAINST, select="promised")

    result.assert_outcomes(skipped=2)
    assert has_text(result, "2 tests: it needs 64 GPUs, and this machine has 8x NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize("variant", ["pub.25.11.pt0281", ""], ids=["published", "own"])
def test_without_the_option_only_recipes_of_published_rows_may_be_larger_than_the_machine(
    h100s: Project, variant: str
) -> None:
    larger = f"gpus=64, dp_shard=64)}}, variant={variant!r}, seq_len"
    h100s.edit("test_speed.py", {"gpus=8, dp_shard=8)}, seq_len": larger})

    result = run(h100s, select="1]")

    result.assert_outcomes(**{"skipped" if variant else "failed": 1})
    assert has_text(result, "64 GPUs")


def test_no_row_may_fail(h100s: Project) -> None:
    result = run(h100s, AGAINST, "--perf-fail-on=no_baseline", select="2]")

    result.assert_outcomes(failed=1)


def test_stored_baselines_are_left_alone_and_not_used(h100s: Project) -> None:
    run(h100s, "--update-baselines", rate=2 * PRINTED)
    (stored,) = (h100s.root / "baselines" / "h100").glob("*.json")
    before = stored.read_bytes()

    run(h100s, AGAINST)

    assert h100s.case()["verdict"]["kind"] == "PASSED"
    assert stored.read_bytes() == before


def test_stored_runs_are_judged_by_a_page_too(h100s: Project) -> None:
    run(h100s, rate=0.8 * PRINTED)
    run(h100s, rate=0.8 * PRINTED)
    newest = max((h100s.root / ".nemoperf" / "runs").iterdir())

    result = run(h100s, AGAINST, f"--perf-replay={newest}", rate=1.0)

    result.assert_outcomes(passed=1)
    (comparison, *_) = h100s.case()["verdict"]["comparisons"]
    assert comparison["published"] == "NVIDIA-NeMo/Megatron-Bridge 25.11"
    assert comparison["delta_pct"] == pytest.approx(-20.0, abs=0.01)


def test_a_waiver_of_a_stored_loss_waives_no_promise(h100s: Project) -> None:
    waived = '@pytest.mark.perf\n@pytest.mark.perf_waive(reason="known", until="2999-01-01")\n@pytest.mark.parametrize'
    h100s.edit("test_speed.py", {"@pytest.mark.perf\n@pytest.mark.parametrize": waived})

    run(h100s, AGAINST, rate=0.8 * PRINTED).assert_outcomes(failed=1)


def test_a_self_test_is_found_by_a_page(h100s: Project) -> None:
    run(h100s, AGAINST, "--perf-inject=25%").assert_outcomes(failed=1)


def test_a_loop_of_the_test_process_has_no_row(project: Project) -> None:
    project.pytester.makepyfile(
        test_speed="""
        import pytest

        @pytest.mark.perf
        def test_loop(perf):
            with perf.measure("mine", tokens_per_step=8) as steps:
                for step in steps:
                    sum(range(10000))
        """
    )

    project.run(AGAINST)

    verdict = project.case()["verdict"]
    assert (verdict["kind"], verdict["reasons"][0]) == (
        "NO BASELINE",
        "no published row is of a loop or a benchmark test",
    )


def test_rows_that_contradict_themselves_are_the_reason_and_no_baseline(
    h100s: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = files.published_rows("h100").rows
    excluded = tuple(ExcludedRow(row=row, reason="744 contradicts 700") for row in rows if row.id == "pt0281")
    monkeypatch.setattr(baselines, "published_rows", lambda _system: PublishedRows(excluded=excluded))
    baselines._index.cache_clear()

    run(h100s, AGAINST)

    baselines._index.cache_clear()
    assert h100s.case()["verdict"]["reasons"][0] == (
        "only published rows that are no baselines match: row pt0281 (NVIDIA-NeMo/Megatron-Bridge 25.11): 744 "
        "contradicts 700"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "cannot be read"),
        ('{"schema_version": 1, "rows": [{"id": 7}]}', "$.rows[0].id is 7; it must be a text"),
        ('{"schema_version": 2, "rows": []}', "$.schema_version is 2, which is none of the known words"),
    ],
)
def test_a_broken_file_of_rows_fails_the_test_by_its_name(
    h100s: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, problem: str
) -> None:
    broken = tmp_path / "catalog" / "published" / "h100.json"
    broken.parent.mkdir(parents=True)
    broken.write_text(content)
    monkeypatch.setattr(files, "resources", SimpleNamespace(files=lambda _package: tmp_path))
    files.published_rows.cache_clear()
    baselines._index.cache_clear()

    result = run(h100s, AGAINST)

    files.published_rows.cache_clear()
    baselines._index.cache_clear()
    result.assert_outcomes(failed=1)
    assert has_text(result, str(broken))
    assert has_text(result, problem)
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize(
    "others",
    [
        ["--update-baselines"],
        ["--update-baselines", "--perf-prune"],
        ["--perf-ab=HEAD"],
        ["--perf-confirm=always"],
        ["--perf-confirm-limit=10"],
        ["--perf-profile"],
    ],
    ids=lambda others: others[-1],
)
def test_options_that_store_or_compare_otherwise_are_refused(project: Project, others: list[str]) -> None:
    result = project.run(AGAINST, *others)

    assert f"--perf-against with {others[0].partition('=')[0]}: " in usage_error(result)


def test_another_value_is_refused(project: Project) -> None:
    assert "--perf-against=publisht: did you mean published?" in usage_error(project.run("--perf-against=publisht"))
    wrong_both = project.pytester.runpytest_inprocess("-m", "perf", "--system=h100", "--perf-against=publisht")
    assert "--perf-against=publisht: did you mean published?" in usage_error(wrong_both)


def test_a_dry_run_sums_gpu_hours_of_stored_and_published_step_times(h100s: Project) -> None:
    run(h100s, "--update-baselines", rate=2 * PRINTED, select="2]")

    result = run(h100s, "--perf-dry-run", "--perf-runs=3", select="promised")

    dry_run: dict[str, Any] = json.loads((h100s.latest / "dry_run.json").read_text())
    step_sec = TOKENS_PER_STEP / (8 * PRINTED)
    hours = 13 * 3 * (step_sec + step_sec / 2) * 8 / 3600
    assert dry_run["cost"] == {
        "gpu_hours": pytest.approx(hours, rel=1e-4),
        "num_stored": 1,
        "num_published": 1,
        "num_unknown": 0,
        "estimated_gpu_hours": 0.0,
        "num_estimated": 0,
        "launches": [],
    }
    assert [case["num_launches"] for case in dry_run["cases"]] == [3, 3]
    result.stdout.fnmatch_lines(
        [
            "GPU-hours of the suite's steps: 1.18, for 2 cases",
            "  step times: 1 from stored baselines, 1 from published rows; 0 cases without*",
            "*start is not counted",
        ]
    )


def test_a_dry_run_against_pages_counts_one_launch_for_none_makes_a_baseline(h100s: Project) -> None:
    result = run(h100s, AGAINST, "--perf-dry-run", "--perf-runs=3", select="1]")

    dry_run: dict[str, Any] = json.loads((h100s.latest / "dry_run.json").read_text())
    hours = 13 * TOKENS_PER_STEP / (8 * PRINTED) * 8 / 3600
    assert dry_run["cost"]["gpu_hours"] == pytest.approx(hours, rel=1e-4)
    assert has_text(
        result, "warm-up and measured steps of one launch a case; not counted: further launches, the time to start"
    )
