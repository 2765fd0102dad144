from __future__ import annotations

import pytest

from pytest_nemoperf.options.selection import asks_for_perf, asks_for_perf_alone


@pytest.mark.parametrize(
    "markexpr",
    [
        "perf",
        "(perf)",
        "perf and not slow",
        "perf and (gpu or cpu)",
        "perf(runs=3, reason='not for now') and slow",
        "not (not perf)",
        "perf and",  # pytest refuses it
    ],
)
def test_a_session_may_ask_for_perf_tests_alone(markexpr: str) -> None:
    assert asks_for_perf(markexpr)
    assert asks_for_perf_alone(markexpr)


@pytest.mark.parametrize("markexpr", ["perf or slow", "not slow or perf", "(gpu and perf) or not perf"])
def test_a_session_may_ask_for_perf_tests_and_others(markexpr: str) -> None:
    assert asks_for_perf(markexpr)
    assert not asks_for_perf_alone(markexpr)


@pytest.mark.parametrize(
    "markexpr",
    ["", "slow", "not perf", "not (perf or slow)", "slow and not perf", "performance or my-perf or perf.x"],
)
def test_a_session_that_does_not_name_perf_or_excludes_it_asks_for_none(markexpr: str) -> None:
    assert not asks_for_perf(markexpr)
    assert not asks_for_perf_alone(markexpr)


@pytest.mark.parametrize("markexpr", ["perf and \ud800", "not " * 20_000 + "perf", "(" * 20_000, "\x00"])
def test_an_expression_that_pytest_refuses_is_left_to_it(markexpr: str) -> None:
    assert asks_for_perf(markexpr)
