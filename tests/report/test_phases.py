from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.report.console import to_text
from pytest_nemoperf.report.phases import _GAP, compare_phases, loss_sentence, phase_table
from pytest_nemoperf.report.terminal.spread import compare_spread
from tests.builders import make_run
from tests.report.builders import make_call_run, make_phased_run

times = st.floats(1e-6, 1e3)
phases = st.dictionaries(
    st.sampled_from(["data", "forward", "backward", "other", "a phase of theirs"]), times, min_size=1
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    return replace(make_run(100.0 / draw(times)), phases=draw(phases))


several = st.lists(runs(), min_size=1, max_size=4)


@given(several, several)
def test_rows_sum_to_the_step_as_shown(now: list[Run], baseline: list[Run]) -> None:
    table = compare_phases(now, baseline=baseline)

    assert table is not None
    half_a_digit = 0.5 * 10.0**-table.decimals
    for side in ("baseline_ms", "now_ms", "difference_ms"):
        total = sum(getattr(row, side) for row in table.rows)
        assert total == pytest.approx(getattr(table.step, side), abs=half_a_digit, rel=1e-9)


@given(several, several)
def test_shares_sum_to_the_whole(now: list[Run], baseline: list[Run]) -> None:
    table = compare_phases(now, baseline=baseline)

    assert table is not None
    shares = [row.share_pct for row in table.rows]
    if table.step.share_pct is None:
        assert set(shares) == {None}
    else:
        assert sum(share for share in shares if share is not None) == pytest.approx(100.0, abs=0.5)


def test_the_phase_that_lost_most_comes_first() -> None:
    slow = replace(make_phased_run(other_sec=0.025, step_time_sec=0.122), phases={**_phases(0.025), "forward": 0.032})

    table = compare_phases([slow], baseline=[make_phased_run()])

    assert table is not None
    first, second, *_ = table.rows
    assert (first.phase, second.phase) == ("other", "forward")
    assert [first.difference_ms, second.difference_ms] == pytest.approx([20.0, 2.0])
    assert [first.share_pct, second.share_pct] == pytest.approx([90.9, 9.1], abs=0.1)


def test_a_phase_only_one_side_has_counts_as_nothing_on_the_other() -> None:
    now = replace(make_run(1000.0), phases={"forward": 0.06, "grad_comm": 0.04})
    then = replace(make_run(1000.0), phases={"forward": 0.06, "other": 0.04})

    table = compare_phases([now], baseline=[then])

    assert table is not None
    assert {row.phase: (row.baseline_ms, row.now_ms) for row in table.rows} == {
        "grad_comm": (0.0, 40.0),
        "forward": (60.0, 60.0),
        "other": (40.0, 0.0),
    }


def test_a_step_that_is_no_slower_has_no_shares_and_no_sentence() -> None:
    table = compare_phases([make_phased_run()], baseline=[make_phased_run()])

    assert table is not None
    assert table.step.share_pct is None
    assert not loss_sentence(table)


def test_medians_that_do_not_add_up_show_the_gap_last() -> None:
    uneven = [replace(make_run(1000.0), phases={"forward": 0.01, "other": 0.08})] * 3

    table = compare_phases(uneven, baseline=[make_phased_run()])

    assert table is not None
    *_, last = table.rows
    assert last.phase == _GAP
    assert last.now_ms == pytest.approx(10.0)


def test_without_phases_on_both_sides_there_is_no_table() -> None:
    assert compare_phases([make_call_run(0.1)], baseline=[make_phased_run()]) is None
    assert compare_phases([make_phased_run()], baseline=[make_call_run(0.1)]) is None


def test_spread_is_told_for_runs_steps_and_ranks() -> None:
    now = [make_phased_run(step_time_sec=0.1), make_phased_run(step_time_sec=0.11)]

    rows = compare_spread(now, baseline=[make_run(1000.0)])

    assert [(then, now_) for _, then, now_ in rows] == [("-", "9.5%"), ("1.0%", "1.0%"), ("-", "2.5%")]


def test_spread_of_calls_has_no_ranks() -> None:
    rows = compare_spread([make_call_run(1.0), make_call_run(1.1)], baseline=[make_call_run(1.0)])

    assert [name.split(",")[0] for name, _, _ in rows] == ["between runs", "between steps"]


def _phases(other_sec: float) -> dict[str, float]:
    return dict(make_phased_run(other_sec=other_sec).phases)


def test_the_loss_is_attributed_in_one_sentence_the_largest_part_first() -> None:
    slow = replace(
        make_phased_run(other_sec=0.0052, step_time_sec=0.1212),
        phases={**_phases(0.0052), "backward": 0.06, "forward": 0.041},
    )

    table = compare_phases([slow], baseline=[make_phased_run()])

    assert table is not None
    assert loss_sentence(table) == "the step is 21.20 ms slower: forward +11.00 ms (52%), backward +10.00 ms (47%)"


def test_a_gain_is_attributed_as_well_and_a_step_of_other_ranks_is_called_so() -> None:
    table = compare_phases(
        [make_phased_run(step_time_sec=0.1)], baseline=[make_phased_run(other_sec=0.025, step_time_sec=0.12)]
    )

    assert table is not None
    text = "a step of the generation ranks is 20.00 ms faster: other -20.00 ms (100%)"
    assert loss_sentence(table, step="a step of the generation ranks") == text


@given(several, several)
def test_a_sentence_names_a_phase_whenever_the_step_changed(now: list[Run], baseline: list[Run]) -> None:
    table = compare_phases(now, baseline=baseline)

    assert table is not None
    assert (" ms (" in loss_sentence(table)) is (table.step.share_pct is not None)


@pytest.mark.parametrize("width", [60, 80])
def test_a_long_phase_name_loses_its_middle_and_no_row_is_folded(width: int) -> None:
    phase = "exposed_generation_of_" + "rollouts_" * 8 + "tail"
    then = replace(make_run(), phases={phase: 0.08, "training": 0.02})
    now = replace(make_run(), phases={phase: 0.06, "training": 0.04})
    compared = compare_phases([now], baseline=[then])
    assert compared is not None

    lines = to_text([phase_table(compared, sides=("baseline", "now"), has_shares=True)], width=width, color=False)

    head, first, second, last = lines.splitlines()
    assert max(map(len, lines.splitlines())) <= width
    assert "exposed_gen" in first + second
    assert "..." in first + second
    assert [line.split()[0] for line in (head, last)] == ["phase", "step"]
