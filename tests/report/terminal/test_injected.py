"""Every output of a self-test says that it is one."""

from __future__ import annotations

import pytest

from pytest_nemoperf.report.ci.github import case_annotation
from pytest_nemoperf.report.ci.junit import properties
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.report.terminal.live import render_case_line, render_progress, render_run_line
from pytest_nemoperf.report.terminal.summary import render_summary
from tests.builders import make_run
from tests.report.builders import make_regressed, make_results

REPORT = make_regressed("pretrain-slow", inject_pct=20.0)
RESULTS = make_results(REPORT, inject_pct=20.0)


def outputs() -> dict[str, str]:
    run = {"case": "pretrain-slow", "run": 1, "num_runs": 3, "elapsed_sec": 1.0, "inject_pct": 20.0}
    return {
        "annotation": str(case_annotation(REPORT.result)),
        "failure": render_failure(REPORT, width=80, color=False),
        "summary": render_summary(RESULTS, reports=[REPORT], width=80, color=False),
        "markdown": render_markdown(RESULTS),
        "case line": render_case_line(REPORT),
        "run line": render_run_line(measured=make_run(), **{k: v for k, v in run.items() if k != "num_runs"}),  # type: ignore[arg-type] # the values above have the types
        "progress": render_progress(step=1, num_steps=9, tokens_per_sec_per_gpu=1.0, width=80, **run),  # type: ignore[arg-type] # as above
        "junit": "\n".join(" ".join(pair) for pair in properties(REPORT)),
    }


@pytest.mark.parametrize("name", sorted(outputs()))
def test_every_output_of_a_self_test_says_so_in_its_first_lines(name: str) -> None:
    first_lines = outputs()[name].splitlines()[:2]

    assert any("INJECTED" in line for line in first_lines)


@pytest.mark.parametrize("name", ["failure", "summary"])
def test_a_block_says_so_above_and_below(name: str) -> None:
    lines = outputs()[name].splitlines()

    banner = [
        "!" * 80,
        "!! INJECTED DELAY: each step was slowed by 20% on purpose (--perf-inject)     !!",
        "!! A self-test: none of these figures is real, none is stored as a baseline.  !!",
        "!" * 80,
    ]
    assert banner in (lines[:4], lines[1:5])
    assert lines[-4:] == banner


def test_the_one_line_a_short_summary_shows_says_so() -> None:
    assert outputs()["failure"].splitlines()[0] == "INJECTED REGRESSED pretrain-slow"


def test_no_self_test_offers_to_be_accepted() -> None:
    assert "to accept it" in render_failure(make_regressed(), width=80, color=False)
    assert "to accept it" not in outputs()["failure"]
    assert "--update-baselines" not in outputs()["summary"]


def test_each_row_and_heading_of_a_table_says_so_when_it_is_copied_alone() -> None:
    lines = [line for line in outputs()["markdown"].splitlines() if line.startswith(("#### ", "| llama"))]

    assert len(lines) == 2
    assert all("INJECTED DELAY, NOT A RESULT" in line for line in lines)


def test_a_tool_that_collects_figures_by_name_meets_none() -> None:
    real = {name for name, _ in properties(make_regressed()) if "_per_gpu_" in name or "_gib_" in name}
    injected = {name for name, _ in properties(REPORT)}

    assert real
    assert not real & injected
    assert {name.replace("nemoperf_", "nemoperf_injected_", 1) for name in real} <= injected


@pytest.mark.parametrize("name", ["failure", "summary", "markdown", "junit"])
def test_a_real_session_says_nothing_of_the_kind(name: str) -> None:
    report = make_regressed("pretrain-slow")
    results = make_results(report)
    texts = {
        "failure": render_failure(report, width=80, color=False),
        "summary": render_summary(results, reports=[report], width=80, color=False),
        "markdown": render_markdown(results),
        "junit": str(properties(report)),
    }

    assert "inject" not in texts[name].lower()
