from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.terminal.live import (
    render_case_line,
    render_header,
    render_progress,
    render_run_line,
    repaint,
)
from pytest_nemoperf.results.cases import CaseReport
from tests.builders import make_baseline, make_measurement, make_run
from tests.report.builders import (
    LONG_CASE,
    POLICY,
    make_call,
    make_call_run,
    make_decayed,
    make_invalid,
    make_passed,
    make_regressed,
    make_report,
)

RESOLVES = "; allows 10%, finds 12.4%"


def header(*, inject_pct: float = 0.0, is_dry_run: bool = False, num_local: int = 0) -> list[str]:
    return render_header(
        system=find_system("cpu"),
        how="detected",
        devices="no NVIDIA GPU",
        baselines_dir="baselines/cpu",
        num_baselines=6,
        num_local=num_local,
        tolerances=POLICY.tolerances,
        finds={},
        runs=3,
        inject_pct=inject_pct,
        is_dry_run=is_dry_run,
    )


def progress(**changes: object) -> str:
    values = {
        "case": LONG_CASE,
        "run": 1,
        "num_runs": 3,
        "step": 4,
        "num_steps": 13,
        "tokens_per_sec_per_gpu": 2412.3,
        "elapsed_sec": 12.3,
        "width": 80,
    }
    return render_progress(**{**values, **changes})  # type: ignore[arg-type] # the values above have the types


def test_the_header_says_what_is_measured_against_what() -> None:
    assert header() == [
        "perf: system cpu (detected: no NVIDIA GPU), at most 3 launches to judge a case",
        "perf: 6 baselines in baselines/cpu, tolerance 10%",
    ]


def test_the_header_of_a_dry_run_promises_no_runs() -> None:
    lines = header(is_dry_run=True)

    assert "perf: system cpu (detected: no NVIDIA GPU)" in lines
    assert "perf: dry run: cases are priced, nothing is launched" in lines


def test_the_header_counts_what_the_machine_keeps_for_itself() -> None:
    assert "perf: 6 baselines in baselines/cpu and 2 of this machine's own, tolerance 10%" in header(num_local=2)


def test_the_header_of_a_self_test_says_so_within_80_columns() -> None:
    lines = header(inject_pct=20.0)

    assert any("INJECTED DELAY" in line and "20%" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_progress_keeps_both_ends_of_the_case() -> None:
    line = progress()

    assert line.startswith("pretrain-a")
    assert line.endswith("-variant: run 1, at most 3, step 4/13, 2,412 tokens/sec/GPU, 12 s")
    assert len(line) == 80


def test_progress_before_the_first_step_says_that_the_ranks_start() -> None:
    assert progress(case="short", step=0, tokens_per_sec_per_gpu=None) == "short: run 1, at most 3, starting, 12 s"


@given(
    st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=200), st.integers(0, 200), st.booleans()
)
def test_progress_never_exceeds_the_width(case: str, width: int, is_injected: bool) -> None:  # noqa: FBT001 (drawn by hypothesis)
    assert len(progress(case=case, width=width, inject_pct=20.0 if is_injected else 0.0)) <= width


def test_a_finished_run_has_case_and_figures_in_one_line_of_a_log() -> None:
    line = render_run_line(case=LONG_CASE, run=2, measured=make_run(1000.0), elapsed_sec=12.3)

    assert line == (
        f"{LONG_CASE}: run 2: 1,000 tokens/sec/GPU, 1 TFLOP/s/GPU, peak memory 1 GiB, step 100 ms, took 12 s"
    )


def test_a_run_without_steps_has_no_step_time() -> None:
    line = render_run_line(case="bench", run=1, measured=make_call_run(0.01), elapsed_sec=1.0)

    assert line == "bench: run 1: time per call 10 ms, took 1 s"


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (make_passed(), "PASSED pretrain-test: 1,000 tokens/sec/GPU, 0.0% against 1,000" + RESOLVES),
        (make_regressed(), "REGRESSED pretrain-test: 833 tokens/sec/GPU, -16.7% (slower) against 1,000" + RESOLVES),
        (
            make_call(seconds=150e-6),
            "REGRESSED bench-matmul: time per call 150 us, +25.0% (slower) against 120 us; allows 10%, finds 15.5%",
        ),
        (make_invalid(), "INVALID pretrain-invalid: run 1: loss is not finite at step 4 (9 of 13 steps)"),
        (
            make_report(),
            "NO BASELINE pretrain-test: 1,000 tokens/sec/GPU, 1 TFLOP/s/GPU, peak memory 1 GiB",
        ),
    ],
    ids=["passed", "regressed", "call", "invalid", "no baseline"],
)
def test_the_line_of_a_case_has_verdict_and_figure(report: object, line: str) -> None:
    assert render_case_line(report) == line  # type: ignore[arg-type] # pytest's parameters are untyped


def test_the_line_of_a_case_shows_the_metric_that_brought_the_verdict_about() -> None:
    runs = tuple(make_run(1000.0, memory_gib=1.5) for _ in range(3))
    report = make_report(make_measurement(runs=runs), baseline=make_baseline())

    line = render_case_line(report)

    assert line.startswith("REGRESSED pretrain-test: peak memory 1.5 GiB, +50.0% (larger) against 1 GiB; allows 10%, ")


def test_the_line_of_a_case_names_the_anchor_it_lost_against() -> None:
    line = render_case_line(make_decayed())

    assert line.startswith("REGRESSED pretrain-test: 760 tokens/sec/GPU, -24.0% (slower) against 1,000 of anchor 1.4; ")


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, "REGRESSED llama[tp2]: 833 tokens/sec/GPU, -16.7% (slower) against 1,000" + RESOLVES),
        (80, "REGRESSED llama[tp2]: 833 tokens/sec/GPU, -16.7% (slower) against 1,000"),
        (40, "REGRESSED llama[tp2]: 833 tokens/sec/..."),
    ],
)
def test_the_line_of_a_case_leaves_out_of_its_end_what_the_terminal_has_no_room_for(width: int, line: str) -> None:
    assert render_case_line(make_regressed(), name="llama[tp2]", width=width) == line


@pytest.mark.parametrize("width", range(20, 120, 7))
@pytest.mark.parametrize("report", [make_passed(LONG_CASE), make_invalid(), make_decayed(), make_report()])
def test_the_line_of_a_case_is_one_line_of_the_terminal(report: CaseReport, width: int) -> None:
    line = render_case_line(report, width=width)

    assert "\n" not in line
    assert len(line) <= width


def test_reasons_of_several_lines_stay_on_the_line_of_the_case() -> None:
    report = make_invalid()
    reasons = ("first\nsecond", "third")
    verdict = replace(report.result.verdict, reasons=reasons)

    line = render_case_line(replace(report, result=replace(report.result, verdict=verdict)))

    assert line == "INVALID pretrain-invalid: first second; third"


@pytest.mark.parametrize(("number", "words"), [(1, "1 more warm-up step dropped"), (2, "2 more warm-up steps dropped")])
def test_dropped_steps_are_counted_in_the_right_number(number: int, words: str) -> None:
    run = replace(make_run(1000.0), num_warmup_dropped=number)

    assert words in render_run_line(case="case", run=1, measured=run, elapsed_sec=1.0).split(", ")


def on_screen(characters: str) -> str:
    """Return the line that a terminal shows after these characters."""
    line: list[str] = []
    column = 0
    for each in re.findall(r"\x1b\[\d*[DK]|.", characters, re.DOTALL):
        if each == "\r":
            column = 0
        elif each == "\b":
            column -= 1
        elif each == "\x1b[K":
            del line[column:]
        elif each.endswith("D") and each.startswith("\x1b"):
            column -= int(each[2:-1])
        else:
            line[column : column + 1] = [each]
            column += 1
        assert column >= 0
    return "".join(line)


@given(st.lists(st.text("abc", max_size=12), max_size=6))
def test_repainting_shows_the_last_line_and_nothing_of_those_before(lines: list[str]) -> None:
    drawn = ""
    written = ""
    for line in lines:
        written += repaint(drawn, line=line)
        drawn = line

    assert on_screen(written) == drawn


def test_a_second_later_a_terminal_gets_the_changed_digits_alone() -> None:
    assert repaint(progress(elapsed_sec=12), line=progress(elapsed_sec=13)) == "\b\b\b3 s"


def test_plain_start_up_does_not_pay_for_tables() -> None:
    """All report modules together leave rich to the moment something is shown."""
    program = (
        "import sys; from pytest_nemoperf.report.ci import junit; "
        "from pytest_nemoperf.report.markdown import pretrain; "
        "from pytest_nemoperf.report.terminal import failure, live, summary; "
        "sys.exit('rich' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_where_tokens_are_not_known_progress_shows_the_step() -> None:
    line = progress(tokens_per_sec_per_gpu=None, step_time_sec=1.234)

    assert "1.23 s a step" in line
    assert "a step" not in progress(step_time_sec=1.234)
