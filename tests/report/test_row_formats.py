from __future__ import annotations

import csv
import io
import json

from pytest_nemoperf.report.row_columns import COLUMNS
from pytest_nemoperf.report.row_formats import csv_text, json_text, markdown_columns, markdown_page
from pytest_nemoperf.results.row import Row, RowKind
from tests.report.blocks import page_tables
from tests.report.markdown.test_row_tables import make_rl_row
from tests.results.row_builders import make_origin, make_row


def read_csv(rows: list[Row]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_text(rows))))


def test_csv_has_every_column_and_unrounded_numbers() -> None:
    (cells,) = read_csv([make_row((12000.125,))])

    assert list(cells) == list(COLUMNS)
    assert (cells["tokens_per_sec_per_gpu"], cells["gpus"], cells["vp"]) == ("12000.125", "8", "")


def test_csv_texts_are_no_formulas_and_stay_in_their_cells() -> None:
    origin = make_origin(command='=HYPERLINK("x")', note='a,b\n"c"\x1b[31m', source="@x", container="-1+1")

    (cells,) = read_csv([make_row(case="+1", origin=origin)])

    assert (cells["command"], cells["source"]) == ('\'=HYPERLINK("x")', "'@x")
    assert (cells["case"], cells["container"]) == ("'+1", "'-1+1")
    assert cells["note"] == 'a,b "c"'


def test_csv_keeps_negative_numbers_as_numbers() -> None:
    (cells,) = read_csv([make_row(values={"kl": (-0.5,)})])

    assert cells["kl"] == "-0.5"


def test_json_holds_whole_rows_in_ascii() -> None:
    text = json_text([make_row(case="\x9b\u202ecase")], title="some", kind="system")

    data = json.loads(text)
    assert text.isascii()
    assert {key: value for key, value in data.items() if key != "rows"} == {
        "schema_version": 1,
        "title": "some",
        "kind": "system",
    }
    assert data["rows"][0]["case"] == "\x9b\u202ecase"
    assert data["rows"][0]["values"]["tokens_per_sec_per_gpu"] == [12000.0, 12010.0, 11990.0]
    assert data["rows"][0]["origin"]["kind"] == "measured"


def test_markdown_has_a_table_for_each_system_and_precision() -> None:
    rows = [
        make_row(precision="FP8_CS"),
        make_row(),
        make_rl_row(),
        make_row(model="", framework="", case="call", values={"time_per_call_sec": (0.25,)}),
        make_row(precision="", origin=make_origin(kind=RowKind.PUBLISHED)),
    ]

    lines = markdown_page(rows).splitlines()

    assert [line for line in lines if line.startswith("#")] == [
        "#### System: DGX-H100. Precision: not known",
        "#### System: DGX-H100. Precision: BF16",
        "#### System: DGX-H100. Precision: FP8_CS",
        "#### System: DGX-H100. Precision: Training BF16, Generation BF16.",
        "#### System: DGX-H100",
    ]
    assert [len(table) for table in page_tables(lines)] == [1, 1, 1, 1, 1]


def test_named_columns_are_one_markdown_table() -> None:
    columns = [COLUMNS[name] for name in ("case", "vp", "tokens_per_sec_per_gpu")]

    ((cells,),) = page_tables(markdown_columns([make_row(case="a|b".replace("|", "-"))], columns=columns).splitlines())

    assert cells == {"case": "a-b", "VP": "n/a", "tokens/sec/GPU": "12,000"}
