from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from pytest_nemoperf.report.row_columns import COLUMNS, default_columns
from pytest_nemoperf.report.terminal.rows import render_details, render_notes, render_rows
from pytest_nemoperf.results.row import Row, RowKind
from tests.report.blocks import table
from tests.results.row_builders import CASE, make_origin, make_row

PUBLISHED = make_row(
    (14079.0,),
    case="pt0019",
    model="LLAMA3_8B",
    origin=make_origin(kind=RowKind.PUBLISHED, release="25.09", source="NVIDIA-NeMo/Megatron-Bridge"),
)


def lines_of(*rows: Row, width: int = 200, total: int | None = None) -> list[str]:
    shown = render_rows(
        rows,
        columns=default_columns(rows),
        title="some rows",
        total=len(rows) if total is None else total,
        width=width,
        color=False,
    )
    return shown.splitlines()


def test_a_row_has_figure_spread_runs_day_and_origin() -> None:
    lines = lines_of(make_row())

    assert lines[0] == "some rows: 1 row"
    assert table(lines, key="case") == {
        CASE: {
            "case": CASE,
            "tokens/sec/GPU": "12,000",
            "spread": "0.17%",
            "runs": "3",
            "of": "2026-11-01",
            "from": "measured",
        }
    }
    assert lines[-1].startswith("figures over the runs; spread is")


def test_a_published_row_has_its_settings_and_no_spread() -> None:
    lines = lines_of(PUBLISHED)

    (cells,) = table(lines, key="case").values()
    assert (cells["model"], cells["#-GPUs"], cells["tokens/sec/GPU"]) == ("LLAMA3_8B", "8", "14,079")
    assert (cells["of"], cells["from"]) == ("25.09", "Megatron-Bridge")
    assert "spread" not in cells


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal_and_no_figure_is_folded(width: int) -> None:
    rows = [make_row(), make_row(case="日本" * 40), PUBLISHED]

    lines = lines_of(*rows, width=width)

    assert all(cell_len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert text.count("12,000") == 2
    assert text.count("14,079") == 1


def test_filtered_rows_are_counted_beside_all() -> None:
    assert lines_of(make_row(), total=1200)[0] == "some rows: 1 of 1,200 rows"
    assert lines_of(total=3) == ["some rows: 0 of 3 rows"]


def test_details_have_every_fact_that_is_known() -> None:
    origin = make_origin(command="pytest -m perf " + "x" * 100, note="read from a log")

    lines = render_details([make_row(origin=origin)], title="t", total=1, width=60, color=False).splitlines()

    assert lines[2] == CASE
    assert f"  command: pytest -m perf {'x' * 100}" in lines
    for fact in ("system: h100", "GBS: 128", "tokens/sec/GPU: 12,000", "spread: 0.17%", "torch: 2.8.0", "runs: 3"):
        assert f"  {fact}" in lines
    assert not any(line.startswith("  VP:") for line in lines)


def test_a_long_case_id_above_its_facts_is_not_broken() -> None:
    case = "grpo-llama3.2-1b-1n1g-torch-bf16-single-gsingle-seq512-gbs32-mbs8-p8g8-in128out384"

    lines = render_details([make_row(case=case)], title="t", total=1, width=80, color=False).splitlines()

    assert lines[2] == case


def test_a_note_stands_below_its_row() -> None:
    row = make_row(case="pt0001", origin=make_origin(kind=RowKind.DRAFT, note="step time and rate differ"))
    columns = [COLUMNS["case"], COLUMNS["gpus"]]

    lines = render_notes([row], columns=columns, title="t", total=1, width=80, color=False).splitlines()

    assert lines == ["t: 1 row", "", "pt0001  8", "    step time and rate differ"]


@pytest.mark.parametrize("color", [False, True])
def test_no_text_of_a_row_reaches_the_terminal_as_a_command(*, color: bool) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b1A\u202e\r\nx"
    origin = make_origin(kind=RowKind.PUBLISHED, release=evil, source=evil, note=evil, command=evil)
    row = make_row(case=evil, model=evil, origin=origin)
    columns = list(COLUMNS.values())

    texts = [
        render_rows([row], columns=columns, title=evil, total=1, width=100, color=color),
        render_details([row], title=evil, total=1, width=100, color=color),
        render_notes([row], columns=columns, title=evil, total=1, width=100, color=color),
    ]

    for text in texts:
        commands = re.sub(r"\x1b\[[0-9;]*m", "", text)  # but the colours of the report itself
        assert all(character == "\n" or character.isprintable() for character in commands)
        assert "owned" not in text


def test_an_address_is_never_cut() -> None:
    url = f"https://github.com/owner/name/blob/{'0' * 40}/docs/performance-summary.md"
    row = make_row(origin=make_origin(kind=RowKind.PUBLISHED, url=url))

    shown = render_rows(
        [row], columns=[COLUMNS["case"], COLUMNS["url"]], title="t", total=1, width=60, color=False
    ).splitlines()

    assert f"  {url}" in shown


@pytest.mark.parametrize("width", [1, 2, 3])
def test_a_terminal_of_no_width_ends_too(width: int) -> None:
    rows = [make_row()]

    text = render_rows(rows, columns=default_columns(rows), title="x", total=1, width=width, color=False)

    assert text


def test_case_ids_that_are_cut_stay_different() -> None:
    start, end = "pretrain-llama3-8b-twin-1n8g-torch-bf16-", "-seq64-gbs8-mbs1-a_variant_of_a_sweep.overlap_grad_reduce"
    cases = [f"{start}{layout}{end}" for layout in ("fsdp8", "fsdp4tp2", "fsdp2tp4")]

    lines = lines_of(*[make_row(case=case) for case in cases], width=80)

    names = {line.split()[0] for line in lines if "grad_reduce" in line}
    assert len(names) == len(cases)
    assert max(map(len, lines)) <= 80
