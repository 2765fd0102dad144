from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.report.terminal.summary import render_summary
from pytest_nemoperf.results.cases import CaseReport, NotRun
from pytest_nemoperf.verdict.judge import judge
from tests.builders import MACHINE, make_baseline, make_measurement, make_policy, make_provenance
from tests.report.blocks import section, table
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

CASE = "pretrain-llama-tiny-1n4g-torch-fp32-fsdp2tp2"


def lines_of(*reports: CaseReport, width: int = 120, not_run: tuple[NotRun, ...] = ()) -> list[str]:
    results = make_results(*reports, not_run=not_run)
    return render_summary(results, reports=reports, width=width, color=False).splitlines()


def below(lines: list[str], line: str) -> str:
    return lines[lines.index(line) + 1]


def test_a_wide_terminal_has_one_line_a_case() -> None:
    rows = table(lines_of(make_passed(CASE), make_regressed("pretrain-slow")), key="case")

    assert (rows[CASE]["verdict"], rows[CASE]["tokens/sec/GPU"]) == ("PASSED", "1,000")
    assert rows["pretrain-slow"] == {
        "verdict": "REGRESSED",
        "case": "pretrain-slow",
        "tokens/sec/GPU": "833",
        "tokens/sec/GPU delta": "-16.7%",
        "TFLOP/s/GPU": "0.833",
        "peak GiB": "1",
        "peak GiB delta": "0.0%",
    }


def test_a_narrow_terminal_has_the_id_above_its_figures() -> None:
    lines = lines_of(make_passed(CASE), make_regressed("pretrain-slow"), width=80)

    assert below(lines, "pretrain-slow").split() == ["REGRESSED", "833", "-16.7%", "0.833", "1", "0.0%"]
    assert below(lines, CASE).split() == ["PASSED", "1,000", "0.0%", "1", "1", "0.0%"]


def test_a_loss_against_the_anchor_alone_shows_that_one() -> None:
    row = table(lines_of(make_decayed("pretrain-slow")), key="case")["pretrain-slow"]

    assert (row["tokens/sec/GPU"], row["tokens/sec/GPU delta"]) == ("760", "-24.0% anchor")


def test_an_expired_waiver_counts_as_that() -> None:
    expired = make_passed("pretrain-b", has_expired_waiver=True, is_failure=True)

    lines = lines_of(make_passed("pretrain-a"), expired)

    assert "1 PASSED, 1 WAIVER EXPIRED" in lines


def test_columns_line_up() -> None:
    lines = lines_of(make_passed(CASE), make_regressed("pretrain-slow"))

    own = [line for line in lines if line.startswith(("verdict  ", "PASSED  ", "REGRESSED  "))]
    assert len(own) == 3
    assert len({len(line) for line in own}) == 1


def test_calls_have_a_table_of_their_own() -> None:
    lines = lines_of(make_passed(CASE), make_call())

    call = table(lines, key="case", column="time per call")["bench-matmul"]
    assert (call["time per call"], call["delta"]) == ("123 us", "+2.5%")


def test_reinforcement_learning_has_a_table_with_its_phases_against_the_baseline() -> None:
    report = make_rl_report(baseline_changes={}, step_time_sec=0.15)

    lines = lines_of(make_passed(CASE), report, width=200)

    case = report.result.verdict.case
    assert table(lines, key="case", column="step")[case] == {
        "verdict": "REGRESSED",
        "case": case,
        "tokens/sec/GPU": "1,067",
        "tokens/sec/GPU delta": "-33.3%",
        "step": "150 ms",
        "peak GiB": "1",
        "peak GiB delta": "0.0%",
    }
    assert table(lines, key="case", column="exposed")[case] == {
        "verdict": "REGRESSED",
        "case": case,
        "generation": "75 ms +50.0%",
        "exposed": "-",
        "logprobs": "30 ms +50.0%",
        "training": "30 ms +50.0%",
        "refit": "10.5 ms +50.0%",
    }


def test_tables_of_reinforcement_learning_fit_a_narrow_terminal() -> None:
    lines = lines_of(make_rl_report(baseline_changes={}, step_time_sec=0.15), width=80)

    assert all(len(line) <= 80 for line in lines)
    assert any(line.split() == ["REGRESSED", "1,067", "-33.3%", "150", "ms", "1", "0.0%"] for line in lines)


def test_phases_without_a_baseline_stand_alone_and_exposed_generation_has_a_column() -> None:
    phases = {"exposed_generation": 0.06, "training": 0.04}

    report = make_rl_report(phases=phases)

    row = table(lines_of(report, width=200), key="case", column="exposed")[report.result.verdict.case]
    assert (row["generation"], row["exposed"], row["training"]) == ("-", "60 ms", "40 ms")


def test_phases_of_an_invalid_case_are_not_shown() -> None:
    report = make_rl_report(baseline_changes={}, loss=float("nan"))

    row = table(lines_of(report, width=200), key="case", column="exposed")[report.result.verdict.case]
    assert list(row.values())[2:] == ["-"] * 5


def test_figures_of_an_invalid_case_are_not_shown() -> None:
    row = table(lines_of(make_invalid()), key="case")["pretrain-invalid"]

    assert list(row.values()) == ["INVALID", "pretrain-invalid", *["-"] * 5]


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

    assert section(lines, heading="NO BASELINE pretrain-one") == [
        "NO BASELINE pretrain-two",
        "  nothing is stored for this case",
        "  --update-baselines stores this session's runs",
    ]


def test_passed_and_failing_cases_are_not_explained_again() -> None:
    lines = lines_of(make_passed("pretrain-fine"), make_regressed("pretrain-slow"))

    assert not any(line.startswith(("PASSED pretrain-fine", "REGRESSED pretrain-slow")) for line in lines)


def test_an_accepted_regression_says_why_it_was_accepted() -> None:
    report = make_regressed("pretrain-slow")
    accepted = replace(report.result, accepted_reason="traded for memory", is_failure=False, stored_path="x.json")

    lines = lines_of(replace(report, result=accepted))

    reasons = section(lines, heading="REGRESSED pretrain-slow")
    assert reasons[0].startswith("  tokens/sec/GPU is 16.7% below")
    assert "  accepted: traded for memory" in reasons


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

    assert f"PASSED {CASE}" in lines
    assert "so the anchor decides nothing" in " ".join(line.strip() for line in lines)


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


def test_written_files_are_named() -> None:
    report = make_passed()

    text = render_summary(
        make_results(report), reports=[report], width=80, color=False, written=["out/results.json", "out/results.md"]
    )

    assert section(text.splitlines(), heading="files written") == ["  out/results.json", "  out/results.md"]


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{60,140}", fullmatch=True), st.sampled_from([80, 100, 160]))
def test_no_line_is_wider_than_the_terminal_and_no_id_is_cut(case: str, width: int) -> None:
    reports = [make_passed(case), make_call(f"bench-{case}"), make_report(make_measurement(case=f"new-{case}"))]

    lines = lines_of(*reports, width=width)

    assert max(map(len, lines)) <= width
    assert case in "".join(lines).replace(" ", "")
    assert f"bench-{case}" in "".join(lines).replace(" ", "")


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

    lines = lines_of(report)

    reasons = section(lines, heading="IMPROVED pretrain-test")
    assert reasons[0].startswith("  tokens/sec/GPU is 50.0% above the baseline")
    assert "  the baseline is loose now; --update-baselines keeps the gain" in reasons


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
