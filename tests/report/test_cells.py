from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.metrics import METRICS, format_time
from pytest_nemoperf.report.cells import (
    allowed_text,
    commit_text,
    elapsed_text,
    figures_text,
    percent,
    shorten_middle,
    signed_percent,
    terms_text,
)
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from tests.builders import make_provenance, make_run
from tests.report.builders import POLICY, make_call_run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2.5, "2.5 s"), (1.0, "1 s"), (0.0123, "12.3 ms"), (0.25, "250 ms"), (123e-6, "123 us"), (45e-9, "45 ns")],
)
def test_a_time_has_the_largest_unit_that_leaves_a_whole_digit(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (125, "2 min 05 s")])
def test_a_time_to_wait_is_told_to_the_second(seconds: float, text: str) -> None:
    assert elapsed_text(seconds) == text


@pytest.mark.parametrize(("percent", "text"), [(1.25, "+1.2%"), (-16.7, "-16.7%"), (0.04, "0.0%"), (-0.04, "0.0%")])
def test_a_change_is_signed_unless_it_rounds_to_nothing(percent: float, text: str) -> None:
    assert signed_percent(percent) == text


@pytest.mark.parametrize(("value", "text"), [(0.312, "0.31%"), (1.14, "1.1%"), (12.4, "12%"), (None, "-")])
def test_a_percentage_has_two_digits_and_is_a_dash_where_it_is_not_known(value: float | None, text: str) -> None:
    assert percent(value) == text


@pytest.mark.parametrize(("metric", "text"), [("tokens_per_sec_per_gpu", "-3.0%"), ("peak_memory_gib", "+3.0%")])
def test_the_allowed_worsening_has_the_sign_in_which_the_metric_worsens(metric: str, text: str) -> None:
    comparison = Comparison(
        metric=metric, baseline=1.0, now=1.0, delta_pct=0.0, allowed_pct=3.0, kind=VerdictKind.PASSED
    )

    assert allowed_text(comparison) == text


def test_a_value_has_its_unit_unless_the_label_is_the_unit() -> None:
    assert METRICS["tokens_per_sec_per_gpu"].format(2412.3) == "2,412"
    assert METRICS["peak_memory_gib"].format(61.34) == "61.3 GiB"
    assert METRICS["time_per_call_sec"].format(0.0123) == "12.3 ms"


def test_figures_are_means_over_the_runs() -> None:
    text = figures_text([make_run(1960.0), make_run(2000.0), make_run(2040.8)])

    assert text == "2,000 tokens/sec/GPU, 2 TFLOP/s/GPU, peak memory 1 GiB"


def test_figures_leave_out_what_was_not_measured() -> None:
    assert figures_text([make_call_run(0.0123)]) == "time per call 12.3 ms"
    assert figures_text([]) == ""


@pytest.mark.parametrize(
    ("tolerances", "finds", "text"),
    [
        pytest.param(POLICY.tolerances, {}, "tolerance 10%", id="alike"),
        pytest.param(
            {**POLICY.tolerances, "peak_memory_gib": 2.5}, {}, "tolerance 10%, peak memory 2.5%", id="one-apart"
        ),
        pytest.param(
            POLICY.tolerances, {"peak_memory_gib": 4.0}, "tolerance 10%; to be found: peak memory 4%", id="one-to-find"
        ),
        pytest.param(POLICY.tolerances, dict.fromkeys(POLICY.tolerances, 4.0), "to be found: 4%", id="all-to-find"),
        pytest.param({}, {}, "tolerance none", id="empty"),
    ],
)
def test_what_cases_are_judged_by_is_told_in_few_words(
    tolerances: dict[str, float], finds: dict[str, float], text: str
) -> None:
    assert terms_text(tolerances, finds=finds) == text


def test_a_commit_with_changes_on_top_is_told_apart() -> None:
    assert commit_text(make_provenance()) == "commit 0123456789ab"
    assert commit_text(make_provenance(git_dirty=True)) == "commit 0123456789ab+changes"
    assert commit_text(make_provenance(git_dirty=None)) == "commit 0123456789ab+unknown"
    assert commit_text(make_provenance(git_commit=None)) == "no commit"
    assert commit_text(make_provenance(git_commit=None, git_dirty=None)) == "commit unknown"


@given(st.text(max_size=200), st.integers(0, 120))
def test_a_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    short = shorten_middle(text, width=width)

    assert len(short) <= width
    assert short == text or width < len(text)
    if 5 <= width < len(text):
        assert short[0] == text[0]
        assert short[-1] == text[-1]
