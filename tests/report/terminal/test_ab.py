"""Reports of a comparison with another revision."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.ab.comparison import ABResult, ABRound, judge_rounds
from pytest_nemoperf.measure.measurement import Measurement, workload_of
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import TFLOPS_PER_SEC_PER_GPU, TIME_PER_CALL_SEC, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.report.ci.junit import properties
from pytest_nemoperf.report.tables import page_number
from pytest_nemoperf.report.terminal.ab import ab_header, render_ab, render_round_line
from pytest_nemoperf.report.terminal.live import render_case_line, render_header
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.results.rows import row_of_case
from tests.ab.test_comparison import LABELS, POLICY, rounds_of
from tests.builders import make_measurement, make_plan, make_provenance, make_run
from tests.report.blocks import section, table

BLOCK = """\
REGRESSED pretrain-test
tokens/sec/GPU is 17.4% below old (main, 36db4f5) (826 against 1,000; allows 5%, finds 8.64%; 95%
interval -18.8% to -15.9% from 10 rounds)

  metric            old    new   delta   95% interval  verdict
  tokens/sec/GPU  1,000    826  -17.4%  -18.8..-15.9%  REGRESSED
  peak memory     1 GiB  1 GiB    0.0%    -0.6..+0.6%  PASSED
  the sides are as far apart as neighbouring steps are, around what both did over all rounds

where the step's time goes (ms, slowest rank)
  phase        old     new  difference
  backward   75.00   90.76      +15.76
  forward    25.00   30.25       +5.25
  step      100.00  121.01      +21.01
  the step is 21.01 ms slower: backward +15.76 ms (75%), forward +5.25 ms (25%)

how new (working tree) was compared with old (main, 36db4f5)
  10 rounds in 42 s by turns of 3 steps; 0 of 10 began with new (drawn from seed 7)
  time a step of new beside old, round by round: +20.0% +22.0% +20.0% +22.0% +20.0% +22.0% +20.0%
  +22.0% +20.0% +22.0%

records and logs of both sides' ranks
  runs/x

to run it again
  pytest --perf-ab=main t.py::t"""
SLOWER = rounds_of([math.log(1.2), math.log(1.22)] * 5)


def ab_of(**changes: Any) -> ABResult:
    values: dict[str, Any] = {
        "revision": "main",
        "old": LABELS[0],
        "new": LABELS[1],
        "method": "turns",
        "why_launches": "",
        "block_steps": 3,
        "seed": 7,
        "rounds": tuple(SLOWER),
        "old_measurement": make_measurement([1000.0] * 10),
        "duration_sec": 42.0,
    }
    return ABResult(**{**values, **changes})


def report_of(ab: ABResult, **changes: Any) -> CaseReport:
    new = replace(make_measurement([826.4] * 10), **changes)
    verdict = judge_rounds(
        ab.old_measurement,
        new,
        rounds=ab.rounds,
        policy=POLICY,
        max_rounds=20,
        labels=(ab.old, ab.new),
        is_by_turns=ab.method == "turns",
    )
    result = CaseResult(nodeid="t.py::t", measurement=new, verdict=verdict, is_failure=True, run_dir="runs/x", ab=ab)
    return CaseReport(result=result, rerun_command="pytest --perf-ab=main t.py::t")


def test_the_block_of_a_slower_side() -> None:
    text = render_ab(report_of(ab_of()), ab=ab_of(), width=100, color=False)

    assert text == BLOCK


def test_ranks_that_only_generate_have_phases_of_their_own() -> None:
    def measured(*, idle: float) -> Measurement:
        measurement = make_measurement([1000.0] * 10)
        groups = {"generation": {"generation": 0.1 - idle, "idle": idle}}
        return replace(measurement, runs=tuple(replace(run, groups=groups) for run in measurement.runs))

    ab = ab_of(old_measurement=measured(idle=0.01))
    lines = render_ab(report_of(ab, runs=measured(idle=0.06).runs), ab=ab, width=100, color=False).splitlines()

    rows = table(section(lines, heading="where the time of the generation ranks goes"), key="phase")
    assert (rows["idle"]["old"], rows["idle"]["new"], rows["idle"]["difference"]) == ("10.00", "60.00", "+50.00")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    text = render_ab(report_of(ab_of(), inject_pct=20.0), ab=ab_of(), width=width, color=False)

    assert max(map(len, text.splitlines())) <= width
    assert "INJECTED REGRESSED" in text


def test_a_side_that_is_invalid_has_no_figures() -> None:
    report = report_of(ab_of(), problems=("run 1: loss is not finite at step 3",))

    text = render_ab(report, ab=ab_of(), width=100, color=False)

    assert text.startswith("INVALID pretrain-test\nnew (working tree): run 1: loss is not finite at step 3\n")
    assert "tokens/sec/GPU" not in text


def test_whole_launches_say_why() -> None:
    ab = ab_of(method="launches", block_steps=0, why_launches="framework command starts its ranks by itself")

    text = render_ab(report_of(ab), ab=ab, width=100, color=False)

    assert "10 rounds in 42 s by whole launches; 0 of 10 began with new (drawn from seed 7)" in text
    assert "not by turns: framework command starts its ranks by itself" in text


def test_rounds_that_are_left_out_are_shown_with_their_reason() -> None:
    ab = ab_of(rounds=(*SLOWER, ABRound(first="new", ratios={}, left_out="one of them had not settled")))

    text = render_ab(report_of(ab), ab=ab, width=100, color=False)

    assert "+20.0% +22.0% (left out)" in text
    assert "(left out) one of them had not settled" in text
    assert "10 rounds in 42 s by turns of 3 steps; 1 of 11 began with new" in text


def test_every_report_shows_the_figures_of_the_verdict_and_not_the_new_sides_own_median() -> None:
    report = report_of(ab_of(), runs=make_measurement([600.0] * 10).runs)

    shown = dict(properties(report))
    line = render_case_line(report)
    measurement = replace(report.result.measurement, workload=workload_of(make_plan()))
    row = row_of_case(replace(report.result, measurement=measurement), provenance=make_provenance(), path="")
    page = [page_number(row.value(metric.name)) for metric in (TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU)]

    assert line.startswith("REGRESSED pretrain-test: 704 tokens/sec/GPU, -17.4% (slower) against 852")
    assert page == ["704", "0.704"]
    rates = [float(shown[f"nemoperf_{name}_per_sec_per_gpu_now"]) for name in ("tokens", "tflops")]
    assert rates == pytest.approx([704.1, 0.7041], rel=1e-3)


def line_of(round_: ABRound, *rates: float) -> str:
    old, new = ([make_run(rate) for rate in side] for side in (rates[:1], rates[1:]))
    return render_round_line(case="pretrain-test", number=3, round_=round_, old=old, new=new, elapsed_sec=2.0)


def test_the_line_of_a_round_has_both_sides_and_their_ratio() -> None:
    (round_,) = rounds_of([math.log(1.25)])

    assert line_of(round_, 1000.0, 800.0) == (
        "pretrain-test: round 3: old 1,000, new 800 tokens/sec/GPU, ratio -20.0% (slower), took 2 s"
    )


def test_the_line_of_a_round_is_as_far_apart_as_its_ratio_says_whatever_the_medians_were() -> None:
    (round_,) = rounds_of([0.0])

    assert "old 894, new 894 tokens/sec/GPU, ratio 0.0%" in line_of(round_, 1000.0, 800.0)


def test_the_line_of_a_round_that_is_left_out_says_why() -> None:
    round_ = ABRound(first="old", ratios={}, left_out="one of them had not settled")

    assert line_of(round_) == "pretrain-test: round 3: left out after 2 s: one of them had not settled"


def test_the_header_says_that_baselines_play_no_part() -> None:
    comparing = ab_header("main, 36db4f5", limit_sec=180.0, tolerances=POLICY.tolerances, finds={})

    lines = render_header(
        system=find_system("cpu"),
        how="detected",
        devices="no NVIDIA GPU",
        baselines_dir="baselines/cpu",
        num_baselines=6,
        num_local=0,
        tolerances=POLICY.tolerances,
        finds={},
        runs=5,
        inject_pct=0.0,
        comparing=comparing,
    )

    system, comparison = lines
    assert "launches" not in system
    assert comparison == comparing
    assert "cases are compared with main, 36db4f5, by --perf-ab, for at most 3 min 00 s each; tolerance 5%" in comparing
    assert "baselines are neither read nor written" in comparing


def test_the_line_of_a_round_of_timed_calls() -> None:
    name = TIME_PER_CALL_SEC.name
    old = replace(make_run(1000.0), metrics={name: 0.5})
    new = replace(make_run(1000.0), metrics={name: 1.0})
    round_ = ABRound(first="old", ratios={name: math.log(2)})

    line = render_round_line(case="bench-x", number=2, round_=round_, old=[old], new=[new], elapsed_sec=4.0)

    assert line == "bench-x: round 2: old 500 ms, new 1 s time per call, ratio +100.0% (slower), took 4 s"
