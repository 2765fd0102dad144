from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.report.phases import _GAP
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.verdict.comparison import VerdictKind
from tests.builders import make_baseline, make_measurement, make_provenance
from tests.report.blocks import lines_of, section, table
from tests.report.builders import LONG_CASE, make_invalid, make_phased_run, make_regressed, make_report

WIDTHS = [80, 100, 160]


def test_the_block_begins_with_verdict_case_and_how_much() -> None:
    head, reason, *_ = lines_of(make_regressed())

    assert head == "REGRESSED pretrain-test"
    assert reason == "tokens/sec/GPU is 16.7% below the baseline (833 against 1,000; allows 10%, finds 12.4%)"


def test_every_metric_is_beside_its_baseline() -> None:
    rows = table(lines_of(make_regressed()), key="metric")

    speed = rows["tokens/sec/GPU"]
    assert speed.pop("95% interval").startswith("-17.")
    assert speed == {
        "metric": "tokens/sec/GPU",
        "baseline": "1,000",
        "now": "833",
        "delta": "-16.7%",
        "allowed": "-10.0%",
        "verdict": "REGRESSED",
    }
    memory = rows["peak memory"]
    assert (memory["now"], memory["delta"], memory["allowed"]) == ("1 GiB", "0.0%", "+10.0%")
    assert memory["verdict"] == "PASSED"


def test_the_block_says_what_the_case_can_find() -> None:
    rows = table(section(lines_of(make_regressed()), heading="noise, and what it lets this case find"), key="metric")

    assert rows["tokens/sec/GPU"] == {
        "metric": "tokens/sec/GPU",
        "seen": "0%",
        "expected": "0.5%",
        "reckoned": "0.45%",
        "sessions": "0.1%",
        "allows": "10%",
        "finds": "12.4%",
    }


def test_the_phase_that_carries_the_delay_is_named_first_and_the_rows_end_with_the_step() -> None:
    rows = table(section(lines_of(make_regressed()), heading="where the step's time went"), key="phase")

    assert list(rows)[0] == "other"  # noqa: RUF015 (beside the last)
    assert rows["other"] == {
        "phase": "other",
        "baseline": "5.00",
        "now": "25.00",
        "difference": "+20.00",
        "share of the loss": "100%",
    }
    assert list(rows)[-1] == "step"
    assert (rows["step"]["baseline"], rows["step"]["now"], rows["step"]["difference"]) == ("100.00", "120.00", "+20.00")


def test_a_phase_that_hardly_changed_has_no_signed_zero() -> None:
    report = make_regressed()
    runs = tuple(replace(run, phases={**run.phases, "forward": 0.02995}) for run in report.result.measurement.runs)
    measurement = replace(report.result.measurement, runs=runs)

    lines = lines_of(replace(report, result=replace(report.result, measurement=measurement)))

    rows = table(section(lines, heading="where the step's time went"), key="phase")
    assert (rows["forward"]["difference"], rows["forward"]["share of the loss"]) == ("-0.05", "0%")
    assert (rows["data"]["difference"], rows["data"]["share of the loss"]) == ("+0.00", "0%")
    assert (rows[_GAP]["difference"], rows[_GAP]["share of the loss"]) == ("+0.05", "0%")


def test_spread_of_both_sides_is_shown() -> None:
    lines = section(lines_of(make_regressed()), heading="spread (3 runs now, 3 in the baseline)")

    ranks = table(lines, key="times apart")["between ranks, (slowest - fastest) / slowest"]
    assert (ranks["baseline"], ranks["now"]) == ("2.5%", "2.5%")


def test_the_block_ends_with_where_to_look_and_what_to_do() -> None:
    lines = lines_of(make_regressed())

    assert section(lines, heading="records and logs") == ["  .nemoperf/runs/20261122-170000/pretrain-test"]
    assert "pytest -m perf --system=cpu" in "".join(section(lines, heading="to run it again"))
    assert "--update-baselines" in "".join(section(lines, heading="to accept it"))


def test_an_invalid_case_gives_its_reason_and_nothing_to_accept() -> None:
    lines = lines_of(make_invalid())

    assert lines[0] == "INVALID pretrain-invalid"
    assert "run 1: loss is not finite at step 4 (9 of 13 steps)" in lines
    assert not any(line.startswith("to accept") for line in lines)
    assert any(line.startswith("to run it again") for line in lines)


def test_a_case_without_any_run_still_has_its_block() -> None:
    measurement = make_measurement(runs=(), problems=("run 1: steps.jsonl is missing",))

    lines = lines_of(make_report(measurement, baseline=make_baseline()))

    assert "run 1: steps.jsonl is missing" in lines
    assert not any(line.startswith("spread") for line in lines)


def test_a_case_without_a_baseline_shows_what_was_measured() -> None:
    lines = lines_of(make_report())

    assert lines[0] == "NO BASELINE pretrain-test"
    assert "measured: 1,000 tokens/sec/GPU, 1 TFLOP/s/GPU, peak memory 1 GiB" in lines


def test_a_case_that_does_not_compare_shows_no_figures_side_by_side() -> None:
    report = make_report(make_measurement(workload={"seq_len": 128}), baseline=make_baseline())

    lines = lines_of(report)

    assert report.result.verdict.kind is VerdictKind.NOT_COMPARABLE
    assert any(line.startswith("other workload: ") for line in lines)
    assert not any(line.startswith(("where the step's", "spread")) for line in lines)


def test_brackets_in_a_case_id_are_not_taken_for_markup() -> None:
    assert lines_of(make_regressed("test_x[bold]:smile:"))[0] == "REGRESSED test_x[bold]:smile:"


def too_wide(text: str, *, width: int) -> list[str]:
    """Return the lines that are longer than the width, paths and the first one with the case id excepted."""
    return [
        line
        for line in text.splitlines()[1:]
        if len(line) > width and not line.strip().startswith((".nemoperf/", "baselines/"))
    ]


def test_a_path_is_never_folded() -> None:
    report = make_regressed(LONG_CASE)

    assert f"  {report.result.baseline_path}" in lines_of(report, width=80)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("color", [False, True], ids=["plain", "color"])
def test_only_a_path_or_an_id_is_wider_than_the_terminal(width: int, color: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    text = render_failure(make_regressed(LONG_CASE, inject_pct=20.0), width=width, color=color)

    assert not too_wide(Text.from_ansi(text).plain, width=width)


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{60,140}", fullmatch=True), st.sampled_from(WIDTHS))
def test_a_case_id_is_neither_folded_nor_cut(case: str, width: int) -> None:
    text = render_failure(make_regressed(case), width=width, color=False)

    assert not too_wide(text, width=width)
    assert text.splitlines()[0] == f"REGRESSED {case}"


def test_color_changes_the_looks_and_no_word() -> None:
    report = make_regressed()

    colored = Text.from_ansi(render_failure(report, width=80, color=True)).plain

    assert [line.rstrip() for line in colored.splitlines()] == lines_of(report, width=80)


def test_plain_text_is_ascii_for_logs_of_any_encoding() -> None:
    assert render_failure(make_regressed(inject_pct=20.0), width=80, color=False).isascii()


def test_the_surroundings_do_not_decide_about_color_or_width(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = render_failure(make_regressed(LONG_CASE), width=100, color=True)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb"), ("COLUMNS", "40"), ("FORCE_COLOR", "0")):
        monkeypatch.setenv(name, value)

    assert render_failure(make_regressed(LONG_CASE), width=100, color=True) == expected


def test_steps_that_were_dropped_or_stalled_are_counted() -> None:
    fast, slow = make_phased_run(), make_phased_run(other_sec=0.025, step_time_sec=0.12)
    now = tuple(replace(slow, num_warmup_dropped=2, num_outliers=1) for _ in range(2))

    lines = lines_of(make_report(make_measurement(runs=now), baseline=make_baseline(runs=(fast,) * 3)))

    assert "  steps dropped, still warming up: 4 now, 0 in the baseline" in lines
    assert "  steps far slower than the rest, kept: 2 now, 0 in the baseline" in lines


def test_a_gain_that_fails_its_test_says_that_the_baseline_is_loose_and_how_to_keep_it() -> None:
    report = make_report(make_measurement((2000.0,) * 3), baseline=make_baseline(), is_failure=True)

    lines = lines_of(report)

    assert report.result.verdict.kind is VerdictKind.IMPROVED
    assert any(line.startswith("the baseline is loose now") for line in lines)
    assert "to keep the gain as the new baseline" in lines


@pytest.mark.parametrize("width", [60, 72, 80])
def test_no_word_of_a_table_is_broken_where_there_is_little_room(width: int) -> None:
    anchor = Anchor(name="25.09", runs=make_baseline((1_234_567.0,) * 5).runs, provenance=make_provenance())
    baseline = make_baseline((1_234_567.0,) * 5, anchor=anchor)
    report = make_report(make_measurement((900_123.0,) * 5), baseline=baseline)

    words = {word for line in lines_of(report, width=width) for word in line.replace(":", "").split()}

    assert words >= {"tokens/sec/GPU", "1,234,567", "900,123", "REGRESSED", "reckoned", "25.09"}
    assert ("-27.5..-26.6%" in words) == (width > 60)  # where it finds no room


def test_tflops_that_follow_from_tokens_are_no_row_and_no_sentence() -> None:
    report = make_regressed()

    assert any(each.metric == "tflops_per_sec_per_gpu" for each in report.result.verdict.comparisons)
    assert not any("TFLOP" in line for line in lines_of(report))


def test_tflops_that_are_judged_more_strictly_are_a_row_of_their_own() -> None:
    report = make_regressed()
    verdict = report.result.verdict
    stricter = tuple(
        replace(each, allowed_pct=3.0) if each.metric.startswith("tflops") else each for each in verdict.comparisons
    )
    result = replace(report.result, verdict=replace(verdict, comparisons=stricter))

    assert any("TFLOP/s/GPU" in line for line in lines_of(replace(report, result=result)))
