from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.report.terminal.summary import render_summary
from pytest_nemoperf.results.cases import CaseReport, NotRun
from pytest_nemoperf.verdict.judge import judge
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance, make_run
from tests.report.blocks import case_rows, section
from tests.report.builders import (
    LONG_CASE,
    make_call,
    make_decayed,
    make_invalid,
    make_passed,
    make_regressed,
    make_report,
    make_results,
    make_rl_report,
)

CASE = "pretrain-llama-tiny-1n4g-torch-fp32-fsdp2tp2-seq64-gbs4-mbs1"


def lines_of(*reports: CaseReport, width: int = 120, not_run: tuple[NotRun, ...] = ()) -> list[str]:
    results = make_results(*reports, not_run=not_run)
    return render_summary(results, reports=reports, width=width, color=False).splitlines()


def below(lines: list[str], line: str) -> str:
    return lines[lines.index(line) + 1]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_a_case_has_one_line_with_units_in_the_head(width: int) -> None:
    rows = case_rows(lines_of(make_passed(CASE), make_regressed("pretrain-slow"), width=width), column="tokens/s/GPU")

    assert (rows["llama-tiny fsdp2tp2"]["verdict"], rows["llama-tiny fsdp2tp2"]["tokens/s/GPU"]) == ("PASSED", "1,000")
    assert rows["pretrain-slow"] == {
        "verdict": "REGRESSED",
        "tokens/s/GPU": "833",
        "tokens/s/GPU change": "-16.7%",
        "TFLOP/s/GPU": "0.833",
        "step ms": "120",
        "peak GiB": "1",
        "peak GiB change": "0.0%",
    }


def test_a_narrow_terminal_leaves_out_the_least_important_columns() -> None:
    lines = lines_of(make_passed("x" * 30), make_regressed("pretrain-slow"), width=72)

    assert list(case_rows(lines, column="tokens/s/GPU")["pretrain-slow"]) == [
        "verdict",
        "tokens/s/GPU",
        "tokens/s/GPU change",
        "peak GiB",
        "peak GiB change",
    ]


def test_a_metric_that_decides_a_verdict_is_never_left_out() -> None:
    runs = tuple(make_run(memory_gib=2.0) for _ in range(3))
    report = make_report(make_measurement(case="x" * 30, runs=runs), baseline=make_baseline(case="x" * 30))

    (row,) = case_rows(lines_of(report, width=60), column="tokens/s/GPU").values()

    assert (row["verdict"], row["peak GiB change"]) == ("REGRESSED", "+100.0%")


def test_the_better_direction_is_said_once() -> None:
    lines = lines_of(make_passed("pretrain-a"), make_rl_report(baseline_changes={}), make_call())

    assert lines.count("change from the baseline: + is better for tokens/s, - for time and memory") == 1


def test_full_ids_are_listed_when_asked_for() -> None:
    report = make_passed(CASE)

    text = render_summary(make_results(report), reports=[report], width=80, color=False, has_ids=True)

    assert section(text.splitlines(), heading="case ids") == [f"  llama_tiny[fsdp2tp2]: {CASE}"]


def test_a_loss_against_the_anchor_alone_shows_that_one() -> None:
    lines = lines_of(make_decayed("pretrain-slow"), make_passed("pretrain-a"))

    row = case_rows(lines, column="tokens/s/GPU")["pretrain-slow"]
    assert (row["tokens/s/GPU"], row["tokens/s/GPU change"]) == ("760", "-24.0%*")
    assert "* change from the baseline's anchor" in lines


def test_an_expired_waiver_counts_as_that() -> None:
    expired = make_passed("pretrain-b", has_expired_waiver=True, is_failure=True)

    lines = lines_of(make_passed("pretrain-a"), expired)

    assert "1 PASSED, 1 WAIVER EXPIRED" in lines


def test_columns_line_up() -> None:
    lines = lines_of(make_passed("pretrain-a"), make_regressed("pretrain-slow"))

    own = [line for line in lines if line.startswith(("case  ", "pretrain-"))]
    assert len(own) == 3
    assert len({len(line) for line in own}) == 1


def test_calls_have_a_table_of_their_own() -> None:
    lines = lines_of(make_passed(CASE), make_call())

    call = case_rows(lines, column="a call us")["bench-matmul"]
    assert (call["a call us"], call["a call us change"]) == ("123", "+2.5%")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_reinforcement_learning_has_a_table_and_a_row_a_phase(width: int) -> None:
    report = make_rl_report(baseline_changes={}, step_time_sec=0.15)

    lines = lines_of(make_passed(CASE), report, width=width)

    case = "llama-tiny fsdp2-gdp2"
    assert case_rows(lines, column="step ms")["llama-tiny fsdp2tp2"]["verdict"] == "PASSED"
    row = case_rows(lines[lines.index("", 2) :], column="step ms")[case]
    assert row == {
        "verdict": "REGRESSED",
        "tokens/s/GPU": "1,067",
        "tokens/s/GPU change": "-33.3%",
        "step ms": "150",
        "peak GiB": "1",
        "peak GiB change": "0.0%",
    }
    assert case_rows(lines, column="phase") == {
        f"{case} {phase}": {"phase": phase, "ms": ms, "ms change": "+50.0%"}
        for phase, ms in (("generation", "75"), ("log-probabilities", "30"), ("training", "30"), ("refit", "10.5"))
    }


def test_phases_without_a_baseline_stand_alone_and_exposed_generation_has_a_row() -> None:
    report = make_rl_report(phases={"exposed_generation": 0.06, "training": 0.04})

    rows = case_rows(lines_of(report), column="phase")

    assert [(row["phase"], row["ms"]) for row in rows.values()] == [("exposed generation", "60"), ("training", "40")]


def test_phases_of_an_invalid_case_are_not_shown() -> None:
    report = make_rl_report(baseline_changes={}, loss=float("nan"))

    assert not any("generation" in line for line in lines_of(report))


def test_figures_of_an_invalid_case_are_not_shown() -> None:
    row = case_rows(lines_of(make_invalid(), make_passed("pretrain-a")), column="tokens/s/GPU")["pretrain-invalid"]

    assert list(row.values()) == ["INVALID", *["-"] * 6]


def test_cases_are_counted_by_verdict() -> None:
    lines = lines_of(make_passed("a"), make_passed("b"), make_regressed("c"), make_report(), make_invalid())

    assert "2 PASSED, 1 REGRESSED, 1 INVALID, 1 NO BASELINE" in lines


def test_a_session_without_cases_says_so() -> None:
    assert "no case was measured" in lines_of()


def test_the_first_line_says_where_and_from_what_the_figures_are() -> None:
    assert lines_of(make_passed())[0] == "CPU, Test CPU: 1 case in 1 min 23 s, commit 0123456789ab"


def test_cases_with_the_same_reason_share_it() -> None:
    reports = [make_report(make_measurement(case=case)) for case in ("pretrain-one", "pretrain-two")]

    lines = lines_of(*reports, make_passed("pretrain-three"))

    reason = "nothing is stored for this case; --update-baselines stores this session's runs"
    assert below(lines, f"NO BASELINE (2 cases): {reason}") == "  pretrain-one, pretrain-two"


def test_remarks_that_differ_in_numbers_alone_are_one_with_a_range() -> None:
    reports = []
    for case, found in (("pretrain-one", "21.9"), ("pretrain-two", "25.3"), ("pretrain-three", "24")):
        report = make_passed(case)
        verdict = replace(report.result.verdict, reasons=(f"finds {found}% with 5 runs of 2026-11-30",))
        reports.append(replace(report, result=replace(report.result, verdict=verdict)))

    lines = lines_of(*reports)

    assert below(lines, "PASSED (3 cases): finds 21.9..25.3% with 5 runs of 2026-11-30") == (
        "  pretrain-one, pretrain-two, pretrain-three"
    )


def test_a_hint_that_several_reasons_share_is_said_once() -> None:
    fast = [
        make_report(
            make_measurement((rate,) * 3, case=f"pretrain-{rate:g}"), baseline=make_baseline(case=f"pretrain-{rate:g}")
        )
        for rate in (1500.0, 1600.0)
    ]

    lines = lines_of(*fast)

    assert lines.count("  the baseline is loose now; --update-baselines keeps the gain") == 1
    assert any(line.startswith("IMPROVED pretrain-1500: tokens/sec/GPU is 50.0% above") for line in lines)


def test_passed_and_failing_cases_are_not_explained_again() -> None:
    lines = lines_of(make_passed("pretrain-fine"), make_regressed("pretrain-slow"))

    assert not any(line.startswith(("PASSED pretrain-fine", "REGRESSED pretrain-slow")) for line in lines)


def test_an_accepted_regression_says_why_it_was_accepted() -> None:
    report = make_regressed("pretrain-slow")
    accepted = replace(report.result, accepted_reason="traded for memory", is_failure=False, stored_path="x.json")

    lines = lines_of(replace(report, result=accepted))

    reasons = " ".join(["", *section(["", *lines], heading="REGRESSED llama_tiny[fsdp2tp2]: tokens/sec/GPU is 16.7%")])
    assert "accepted: traded for memory" in reasons


def test_tests_that_did_not_run_are_counted_by_reason() -> None:
    no_layout = tuple(NotRun(nodeid=f"test_{number}", reason="no layout for system cpu") for number in range(3))

    lines = lines_of(make_passed(), not_run=(*no_layout, NotRun(nodeid="test_x", reason="judged nothing")))

    reasons = section(lines, heading="not run")
    assert reasons == ["  3 tests: no layout for system cpu", "  1 test: judged nothing"]


def test_where_old_runs_stay_beside_the_new_one_what_is_stored_is_shown() -> None:
    report = make_passed(CASE)
    report = replace(
        report,
        replaced=make_baseline((1000.0, 1010.0), case=CASE),
        stored=make_baseline((1000.0, 1010.0, 1020.0), case=CASE),
        result=replace(report.result, stored_path=f"baselines/cpu/{CASE}.json"),
    )

    assert "    tokens/sec/GPU: 1,005 -> 1,010 (+0.5%)" in lines_of(report)


def test_what_an_anchor_could_not_decide_is_told_of_a_case_that_passed() -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1000.0,)).runs, provenance=make_provenance())
    settled = make_baseline((1000.0,) * 10, anchor=anchor, case=CASE)
    verdict = judge(
        make_measurement((1000.0,) * 5, case=CASE),
        baseline=settled,
        machine=MACHINE,
        policy=make_policy(run_noise_pct=5.0),
    )
    report = make_passed(CASE)

    lines = lines_of(replace(report, result=replace(report.result, verdict=verdict)))

    assert any(line.startswith("PASSED llama_tiny[fsdp2tp2]: ") for line in lines)
    assert "so the anchor decides nothing" in " ".join(lines)


def test_a_replaced_baseline_shows_old_and_new_of_every_metric() -> None:
    report = make_regressed(CASE)
    report = replace(
        report, replaced=report.baseline, result=replace(report.result, stored_path=f"baselines/cpu/{CASE}.json")
    )

    assert section(lines_of(report), heading="baselines written") == [
        f"  baselines/cpu/{CASE}.json",
        "    tokens/sec/GPU: 1,000 -> 833 (-16.7%)",
        "    TFLOP/s/GPU: 1 -> 0.833 (-16.7%)",
        "    peak memory: 1 GiB -> 1 GiB (0.0%)",
    ]


def test_a_first_baseline_shows_its_figures_and_needs_no_advice() -> None:
    report = make_report()
    report = replace(report, result=replace(report.result, stored_path="baselines/cpu/pretrain-test.json"))

    lines = lines_of(report)

    assert "    new: 1,000 tokens/sec/GPU, 1 TFLOP/s/GPU, peak memory 1 GiB" in lines
    assert not any("--update-baselines" in line for line in lines)


def test_a_note_on_several_written_baselines_is_said_once_after_them() -> None:
    reports = []
    for case, found in (("pretrain-one", "92.9"), ("pretrain-two", "85.1")):
        report = make_report(make_measurement(case=case))
        note = f"tokens/sec/GPU: 10% is allowed, {found}% found with 4 runs"
        reports.append(replace(report, result=replace(report.result, stored_path=f"b/{case}.json", storing_note=note)))

    lines = lines_of(*reports)

    assert below(lines, "    new: 1,000 tokens/sec/GPU, 1 TFLOP/s/GPU, peak memory 1 GiB") == "  b/pretrain-two.json"
    assert lines.count("  2 cases: tokens/sec/GPU: 10% is allowed, 85.1..92.9% found with 4 runs") == 1


def test_written_files_are_named() -> None:
    report = make_passed()

    text = render_summary(
        make_results(report), reports=[report], width=80, color=False, written=["out/results.json", "out/results.md"]
    )

    assert section(text.splitlines(), heading="files written") == ["  out/results.json", "  out/results.md"]


@given(
    names=st.lists(st.text(st.sampled_from("ab-[]:. \x1b\u4f60"), max_size=90), min_size=1, max_size=4, unique=True),
    width=st.integers(60, 200),
)
@settings(max_examples=25)
def test_each_case_has_one_line_however_narrow_the_terminal_and_hostile_its_name(names: list[str], width: int) -> None:
    reports = []
    for number, name in enumerate(names):
        makers = (make_passed, make_regressed, make_invalid, make_decayed)
        report = makers[number](f"{number}{name}")
        waived = replace(report.result, nodeid=f"test_{name}.py::test_{name}", has_expired_waiver=number == 0)
        reports.append(replace(report, result=waived))
    rl = make_rl_report(baseline_changes={}, step_time_sec=0.15)

    lines = lines_of(*reports, rl, make_call(), width=width)

    assert max(map(len, lines)) <= width
    heads = [number for number, line in enumerate(lines) if re.match(r"case {2,}", line)]
    pretrain, of_rl, phases, calls = heads
    verdicts = ("PASSED", "REGRESSED", "INVALID")
    for line in lines[pretrain + 1 : pretrain + 1 + len(names)]:
        assert any(verdict in line for verdict in verdicts)
    assert "REGRESSED" in lines[of_rl + 1]
    assert "REGRESSED" in lines[calls + 1] or "PASSED" in lines[calls + 1]
    assert lines[phases + 1].endswith("+50.0%")


@pytest.mark.parametrize("width", [80, 100, 160])
def test_color_changes_the_looks_and_no_word(width: int) -> None:
    reports = [make_passed(CASE), make_regressed(LONG_CASE), make_invalid(), make_call()]
    results = make_results(*reports)

    colored = Text.from_ansi(render_summary(results, reports=reports, width=width, color=True)).plain

    plain = render_summary(results, reports=reports, width=width, color=False)
    assert [line.rstrip() for line in colored.splitlines()] == plain.splitlines()
    assert plain.isascii()


def test_an_improvement_says_how_to_keep_it() -> None:
    report = make_report(make_measurement((1500.0, 1500.0)), baseline=make_baseline())

    text = " ".join(lines_of(report))

    assert "IMPROVED llama_tiny[fsdp2tp2]: tokens/sec/GPU is 50.0% above the baseline" in text
    assert "the baseline is loose now; --update-baselines keeps the gain" in text


def test_what_does_not_compare_is_not_shown_as_old_and_new() -> None:
    report = make_passed()
    stored = replace(make_baseline(), workload={"seq_len": 128})
    result = replace(report.result, stored_path="baselines/cpu/pretrain-test.json")

    report = replace(report, result=result, stored=stored, replaced=make_baseline(), stored_profile="a.json.gz")

    lines = lines_of(report)

    assert not any("->" in line for line in lines)
    assert any("in place of runs that do not compare" in line for line in lines)
    assert section(lines, heading="profiles written") == ["  a.json.gz"]


def test_old_and_new_are_as_they_were_judged() -> None:
    old = make_baseline((1000.0, 1000.0, 1030.0))
    report = make_report(make_measurement((1500.0, 1500.0, 1545.0)), baseline=old)
    result = replace(report.result, stored_path="baselines/cpu/pretrain-test.json")
    stored = replace(old, runs=result.measurement.runs)

    lines = lines_of(replace(report, result=result, stored=stored, replaced=old))

    assert "    tokens/sec/GPU: 1,010 -> 1,515 (+50.0%)" in lines


def test_a_case_that_ran_under_changes_is_not_told_to_be_stored() -> None:
    lines = lines_of(make_report(make_measurement(case=f"{CASE}+set")))

    assert not any("--update-baselines" in line for line in lines)
    assert "NO BASELINE llama_tiny[fsdp2tp2]: nothing is stored for this case" in lines
