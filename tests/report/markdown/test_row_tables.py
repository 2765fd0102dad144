from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.report.markdown.row_tables import (
    call_table,
    pretrain_headings,
    pretrain_table,
    rl_headings,
    rl_names,
    rl_table,
)
from pytest_nemoperf.results.row import RolloutColumns, Row, RowKind
from tests.report.blocks import page_tables
from tests.results.row_builders import make_origin, make_row

# The headers of the two pages that these tables are for, as their authors wrote them.
PRETRAIN_HEADER = (
    "| Model | #-GPUs | GBS | MBS | Sequence Length | FSDP | TP | PP | CP | VP | EP | GA "
    "| Tokens / sec / GPU | Model TFLOP / sec / GPU |"
)
RL_HEADER = (
    "| Model | Training Backend|T-Max Sequence Length | G-Average Seq len| #-GPUs | G-GBS |T-GBS|G-TP|G-PP|G-DP|T-TP|"
    "T-CP| T-EP| T-PP|T-VPP|T-DP | Tokens / sec / GPU | Total Step time(s) |"
)


def headings_of(header: str) -> list[str]:
    return [heading.strip() for heading in header.strip("|").split("|")]


def make_rl_row(**changes: Any) -> Row:
    rollouts = RolloutColumns(
        max_staleness=0,
        backend="Megatron",
        dataset="OpenMathInstruct-2",
        num_samples=2048,
        tp=1,
        pp=1,
        dp=None,
        precision="BF16",
    )
    values = {"tokens_per_sec_per_gpu": (1482.0,), "step_time_sec": (114.9,), "mean_response_len": (1056.0,)}
    return make_row(workload="grpo", model="LLAMA3.1_8B", pp=2, vp=1, rollouts=rollouts, values=values, **changes)


def test_columns_are_those_of_the_pages_in_their_order() -> None:
    assert pretrain_headings() == headings_of(PRETRAIN_HEADER)
    assert rl_headings() == headings_of(RL_HEADER)


def test_no_rows_leave_head_and_rule() -> None:
    head, rule = pretrain_table([])
    rl_head, rl_rule = rl_table([])

    assert (headings_of(head), headings_of(rl_head)) == (pretrain_headings(), rl_headings())
    assert set(rule) == set(rl_rule) == set("| -")


def test_every_value_of_pre_training_is_under_its_heading() -> None:
    row = make_row((11290.4,), gpus=96, micro_batch_size=7, fsdp=0, dp=3, tp=2, pp=4, cp=5, vp=6, ep=9)

    ((cells,),) = page_tables(pretrain_table([row]))

    assert list(cells.values()) == [
        "llama3-8b", "96", "128", "7", "8192", "0", "2", "4", "5", "6", "9", "16", "11290", "n/a",
    ]  # fmt: skip


def test_every_value_of_reinforcement_learning_is_under_its_heading() -> None:
    ((cells,),) = page_tables(rl_table([make_rl_row(dp=3, cp=4, ep=5, tp=6)]))

    assert list(cells.values()) == [
        "LLAMA3.1_8B", "Megatron", "8192", "1056", "8", "2048", "128", "1", "1", "n/a", "6", "4", "5", "2", "n/a", "3",
        "1482", "115",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [RowKind.PUBLISHED, RowKind.DRAFT])
def test_a_published_figure_has_the_digits_that_its_page_prints(kind: RowKind) -> None:
    ((cells,),) = page_tables(rl_table([make_rl_row(origin=make_origin(kind=kind))]))

    assert cells["Total Step time(s)"] == "114.9"


def test_rows_that_only_the_case_tells_apart_have_it() -> None:
    rows = [make_row(case="one"), make_row((1.0,), case="two"), make_row(case="three", tp=2)]

    (cells,) = page_tables(pretrain_table(rows))

    assert [row["Model"] for row in cells] == ["llama3-8b (one)", "llama3-8b (two)", "llama3-8b"]


def test_a_mark_is_behind_each_name() -> None:
    ((trained,),) = page_tables(pretrain_table([make_row()], mark="A TEST"))
    ((call,),) = page_tables(call_table([make_row(model="", case="loop")], mark="A TEST"))

    assert (trained["Model"], call["Case"]) == ("llama3-8b (A TEST)", "loop (A TEST)")
    assert rl_names([make_rl_row()], mark="A TEST") == ["LLAMA3.1_8B (A TEST)"]


def test_calls_have_the_figures_that_any_of_them_has() -> None:
    rows = [
        make_row(model="", case="call", values={"time_per_call_sec": (0.25,)}),
        make_row(model="", case="loop", values={"step_time_sec": (2.0,)}),
    ]

    (cells,) = page_tables(call_table(rows))

    assert cells == [
        {"Case": "call", "Time / call (s)": "0.25", "Step time (s)": "n/a"},
        {"Case": "loop", "Time / call (s)": "n/a", "Step time (s)": "2"},
    ]


def test_a_hostile_name_stays_in_its_cell() -> None:
    row = make_row(model="a|b\n| <script> | `x` {ref}")

    line = pretrain_table([row])[2]

    assert line.startswith("| a\\|b \\| &lt;script&gt; \\| \\`x\\` \\{ref\\} | 8 | 128 |")
    assert line.replace("\\|", "").count("|") == len(pretrain_headings()) + 1
