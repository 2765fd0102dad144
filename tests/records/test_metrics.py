from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.records.metrics import (
    CALL_SUMMARY,
    IN_PROCESS_PAGE,
    JUDGED,
    MEAN_RESPONSE_LEN,
    METRICS,
    PEAK_MEMORY_GIB,
    PRETRAIN_PAGE,
    PRETRAIN_SUMMARY,
    RL_SUMMARY,
    TOKENS_PER_SEC_PER_GPU,
    Direction,
)

positive = st.floats(1e-6, 1e12)


def test_fewer_tokens_are_worse_and_less_memory_is_better() -> None:
    assert TOKENS_PER_SEC_PER_GPU.worsening_pct(90.0, baseline=100.0) == pytest.approx(10.0)
    assert PEAK_MEMORY_GIB.worsening_pct(90.0, baseline=100.0) == pytest.approx(-10.0)


def test_delta_is_signed_whatever_the_direction() -> None:
    assert TOKENS_PER_SEC_PER_GPU.delta_pct(90.0, baseline=100.0) == pytest.approx(-10.0)
    assert PEAK_MEMORY_GIB.delta_pct(90.0, baseline=100.0) == pytest.approx(-10.0)


directed = [name for name, metric in METRICS.items() if metric.direction is not Direction.NEITHER]


@given(st.sampled_from(directed), positive, positive)
def test_a_value_on_the_worse_side_is_never_an_improvement(name: str, now: float, baseline: float) -> None:
    metric = METRICS[name]
    is_worse = now < baseline if metric.direction is Direction.HIGHER else now > baseline

    assert (metric.worsening_pct(now, baseline=baseline) > 0) == is_worse


def test_units_are_the_suffix_of_the_name() -> None:
    suffixes = ("_per_gpu", "_sec", "_gib", "_pct", "_len", "_steps", "_per_step", "_per_token", "_per_joule")

    assert all(name.endswith(suffixes) for name, metric in METRICS.items() if metric.unit)
    assert not any(name.endswith(suffixes) for name, metric in METRICS.items() if not metric.unit)


@given(positive, positive)
def test_what_describes_a_workload_is_never_worse(now: float, baseline: float) -> None:
    assert MEAN_RESPONSE_LEN.worsening_pct(now, baseline=baseline) == 0.0
    assert all(metric.direction is not Direction.NEITHER for metric in JUDGED)


def test_a_ratio_has_no_unit_and_digits_enough_to_be_read() -> None:
    assert METRICS["token_mult_prob_error"].format(1.00042) == "1.0004"
    assert MEAN_RESPONSE_LEN.format(24.25) == "24.25 tokens"


def test_judged_metrics_are_known_and_distinct() -> None:
    names = [metric.name for metric in JUDGED]

    assert set(names) <= set(METRICS)
    assert len(names) == len(set(names))


def test_tables_show_known_metrics_and_pages_those_with_a_heading() -> None:
    shown = {*IN_PROCESS_PAGE, *PRETRAIN_PAGE, *PRETRAIN_SUMMARY, *RL_SUMMARY, *CALL_SUMMARY}

    assert shown <= set(METRICS.values())
    assert all(metric.heading for metric in (*IN_PROCESS_PAGE, *PRETRAIN_PAGE))


def test_headings_are_those_of_the_performance_pages() -> None:
    assert METRICS["tokens_per_sec_per_gpu"].heading == "Tokens / sec / GPU"
    assert METRICS["tflops_per_sec_per_gpu"].heading == "Model TFLOP / sec / GPU"


@pytest.mark.parametrize(
    ("name", "delta_pct", "word"),
    [
        ("tokens_per_sec_per_gpu", 3.1, "faster"),
        ("tokens_per_sec_per_gpu", -3.1, "slower"),
        ("step_time_sec", 3.1, "slower"),
        ("step_time_sec", -3.1, "faster"),
        ("refit_gib_per_sec", -3.1, "slower"),
        ("peak_memory_gib", 3.1, "larger"),
        ("mean_response_len", -3.1, "smaller"),
        ("step_time_sec", 0.04, ""),
    ],
)
def test_a_change_has_a_word_since_its_sign_does_not_tell_gain_from_loss(
    name: str, delta_pct: float, word: str
) -> None:
    assert METRICS[name].change_word(delta_pct) == word
