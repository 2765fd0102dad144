from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.results.row import Row, RowKind
from pytest_nemoperf.results.side_by_side import FACETS, Axis, SideBySide, match_rows, recipe_label
from tests.results.row_builders import CASE, make_origin, make_row


def published(**changes: Any) -> Row:
    origin = make_origin(
        kind=RowKind.PUBLISHED,
        source="NVIDIA-NeMo/Megatron-Bridge",
        versions={},
        **changes.pop("origin", {"release": "26.02"}),
    )
    values: dict[str, Any] = {"case": "pt0001", "framework": "megatron_bridge", "model": "LLAMA3_8B", "fsdp": None}
    return make_row((100.0,), **{**values, "origin": origin, "sessions": (), **changes})


def matched(*sets: list[Row], **options: Any) -> SideBySide:
    return match_rows([(f"source {number}", rows) for number, rows in enumerate(sets)], **options)


def cases(side_by_side: SideBySide) -> list[list[str]]:
    lines = []
    for line in side_by_side.lines:
        lines.append(["-" if row is None else f"{row.system} {row.case}" for row in line.rows])
    return lines


def test_rows_of_the_same_system_and_case_are_of_one_line() -> None:
    one = [make_row(case="b"), make_row(case="a"), make_row(case="a", system="cpu"), make_row(case="gone", gpus=1)]
    other = [make_row(case="a"), make_row(case="b"), make_row(case="a", system="cpu"), make_row(case="new", gpus=2)]

    result = matched(one, other)

    assert result.axes == ()
    assert cases(result) == [["h100 b", "h100 b"], ["h100 a", "h100 a"], ["cpu a", "cpu a"]]
    assert [line.label for line in result.lines] == ["h100 b", "h100 a", "cpu a"]
    assert [[row.case for row in rows] for rows in result.unmatched] == [["gone"], ["new"]]


def test_a_renamed_case_of_equal_settings_has_its_counterpart() -> None:
    settings = {"seq_len": 8192, "recompute": "full"}

    result = matched([make_row(case="a", settings=settings)], [make_row(case="b", settings=settings)])

    assert cases(result) == [["h100 a", "h100 b"]]


@pytest.mark.parametrize(
    "name", ["workload", "precision", "gpus", "global_batch_size", "micro_batch_size", "seq_len", "tp", "ep"]
)
def test_cases_of_other_settings_have_no_counterpart(name: str) -> None:
    value: Any = 77 if isinstance(getattr(make_row(), name), int) else "other"

    assert matched([make_row(case="a")], [make_row(case="b", **{name: value})]).lines == ()


def test_a_setting_that_no_column_shows_keeps_cases_apart() -> None:
    one = make_row(case="a", settings={"recompute": "full"})
    other = make_row(case="b", settings={"recompute": "none"})

    assert matched([one], [other]).lines == ()


def test_a_case_with_other_settings_tells_them() -> None:
    one = make_row(settings={"recompute": "full", "seed": 1})
    other = make_row(settings={"recompute": "none", "seed": 1})

    (line,) = matched([one], [other]).lines

    assert line.differs == ("recompute",)


def test_two_systems_are_compared_by_all_but_the_system() -> None:
    one = [make_row(), make_row(case="only", gpus=1)]
    other = [make_row(system="b200"), make_row(system="b200", case="more", gpus=2)]

    result = matched(one, other)

    assert result.axes == (Axis.SYSTEM,)
    assert "system" not in result.equal
    assert [line.label for line in result.lines] == [CASE]
    assert cases(result) == [[f"h100 {CASE}", f"b200 {CASE}"]]


def test_two_frameworks_are_compared_by_all_but_the_framework() -> None:
    one = [make_row(settings={"framework": "torch", "seq_len": 1})]
    other = [
        make_row(
            case=CASE.replace("torch", "megatron"),
            framework="megatron",
            settings={"framework": "megatron", "framework_options": {"a": 1}, "seq_len": 1},
        )
    ]

    result = matched(one, other)

    assert result.axes == (Axis.FRAMEWORK,)
    (line,) = result.lines
    assert line.label == CASE.replace("-torch", "")
    assert line.differs == ()


def test_two_layouts_are_compared_by_all_but_the_degrees() -> None:
    one = [make_row(case="a", settings={"layout": {"dp_shard": 8}})]
    other = [make_row(case="b", tp=2, fsdp=0, settings={"layout": {"tp": 2}})]

    result = matched(one, other, is_by_layout=True)

    assert result.axes == (Axis.LAYOUT,)
    (line,) = result.lines
    assert line.label == "llama3-8b BF16 8 GPUs pretrain GBS 128 MBS 1 seq 8192"
    assert line.differs == ()


def test_without_naming_the_axis_other_layouts_have_no_counterpart() -> None:
    assert matched([make_row(case="a")], [make_row(case="b", tp=2)]).lines == ()


def test_a_published_row_is_beside_the_measured_row_of_its_recipe_in_any_framework() -> None:
    result = matched([make_row()], [published(cp=None, vp=None)])

    assert result.axes == (Axis.FRAMEWORK,)
    assert cases(result) == [[f"h100 {CASE}", "h100 pt0001"]]
    assert result.lines[0].differs == ("fsdp 1 / unknown",)


def test_of_several_releases_of_a_page_the_newest_is_beside_a_measured_row() -> None:
    old = published(case="old", origin={"release": "25.11", "date": "2025-11-01"})
    new = published(case="new", origin={"release": "26.02", "date": "2026-02-01"})

    result = matched([make_row()], [old, new])

    assert cases(result) == [[f"h100 {CASE}", "h100 new"]]
    assert [row.case for row in result.unmatched[1]] == ["old"]


def test_published_rows_of_two_systems_are_matched_within_their_release_first() -> None:
    one = [
        published(case=f"h{release}", origin={"release": release, "date": f"20{release}"})
        for release in ("25-11", "26-02")
    ]
    other = [
        published(case=f"b{release}", system="b200", origin={"release": release, "date": f"20{release}"})
        for release in ("26-04", "25-11")
    ]

    result = matched(one, other)

    assert cases(result) == [["h100 h25-11", "b200 b25-11"], ["h100 h26-02", "b200 b26-04"]]
    assert result.lines[0].label.endswith("(25-11)")
    assert result.lines[1].differs == ("release 26-02 / 26-04",)


def test_rows_of_unknown_precision_are_alike_only_in_the_same_cell_of_one_page() -> None:
    outside = published(precision="", origin={"release": "25.09", "note": "outside parentheses"})
    inside = published(precision="", system="b200", origin={"release": "25.09", "note": "inside parentheses"})
    same = published(precision="", system="b200", origin={"release": "25.09", "note": "outside parentheses"})

    assert matched([outside], [inside]).lines == ()
    assert len(matched([outside], [same]).lines) == 1


@pytest.mark.parametrize(("one", "other"), [("FP8_CS", "fp8-cs"), ("MXFP8", "FP8_MX")])
def test_a_precision_has_several_spellings(one: str, other: str) -> None:
    assert len(matched([published(precision=one)], [published(precision=other, system="b200")]).lines) == 1


@pytest.mark.parametrize(
    ("framework", "measured", "is_equal"),
    [
        ("megatron_bridge", "FP8_CS", True),
        ("nemo", "FP8_DS", True),
        ("nemo", "FP8_CS", False),
        ("maxtext", "FP8_DS", False),
    ],
)
def test_a_page_that_prints_fp8_alone_means_its_frameworks_scaling(
    framework: str, measured: str, *, is_equal: bool
) -> None:
    result = matched([make_row(precision=measured)], [published(precision="FP8", framework=framework)])

    assert bool(result.lines) is is_equal
    if is_equal:
        assert f"precision {measured.replace('_', '-')} / FP8" in result.lines[0].differs


def test_three_sources_are_on_one_line_where_two_have_a_case_and_the_third_its_settings() -> None:
    result = matched([make_row()], [make_row()], [published()])

    assert cases(result) == [[f"h100 {CASE}", f"h100 {CASE}", "h100 pt0001"]]


def test_a_source_without_a_counterpart_of_two_others_leaves_its_place_empty() -> None:
    result = matched([make_row()], [make_row(case="x", gpus=1)], [make_row()])

    assert cases(result) == [[f"h100 {CASE}", "-", f"h100 {CASE}"]]


def test_columns_that_must_be_equal_may_be_named() -> None:
    one = make_row(case="a", tp=2, global_batch_size=4)
    other = make_row(case="b", tp=4, global_batch_size=8, system="b200")

    result = matched([one], [other], equal=["model", "tp"])
    fewer = matched([one], [other], equal=["model", "gpus"])

    assert result.lines == ()
    assert not result.is_by_case
    (line,) = fewer.lines
    assert line.label == "llama3-8b 8 GPUs"
    assert line.differs == ("global_batch_size 4 / 8", "tp 2 / 4")


def test_published_rows_with_named_columns_are_matched_within_their_release_first() -> None:
    one = [published(case="h", origin={"release": "25-11", "date": "2025-11-01"})]
    newer = published(case="new", system="b200", tp=2, origin={"release": "26-02", "date": "2026-02-01"})
    same = published(case="same", system="b200", tp=2, origin={"release": "25-11", "date": "2025-11-01"})

    assert cases(matched(one, [newer, same], equal=["model"])) == [["h100 h", "b200 same"]]


def test_calls_have_a_counterpart_by_case_alone() -> None:
    changes: dict[str, Any] = {"model": "", "framework": "", "workload": "benchmark", "gpus": None}
    one = [make_row(case="a", **changes), make_row(case="b", **changes)]
    other = [make_row(case="b", **changes), make_row(case="c", **changes)]

    assert cases(matched(one, other)) == [["h100 b", "h100 b"]]


def test_a_source_beside_itself_has_all_its_rows_in_lines() -> None:
    rows = [make_row(case="a"), make_row(case="b"), published(), published(case="pt0002", tp=4)]

    result = matched(rows, list(rows))

    assert all(row is not None for line in result.lines for row in line.rows)
    assert result.unmatched == ((), ())
    assert len(result.lines) == 4


def test_empty_sources_have_no_line() -> None:
    assert matched([], []).lines == ()


def test_a_label_leaves_out_degrees_of_one_and_columns_that_do_not_count() -> None:
    row = make_row(tp=2, cp=1)

    assert recipe_label(row) == "llama3-8b BF16 8 GPUs pretrain GBS 128 MBS 1 seq 8192 TP2"
    assert recipe_label(row, names=("model", "gpus")) == "llama3-8b 8 GPUs"
    assert recipe_label(make_row(model="")) == CASE


def test_a_difference_in_a_column_is_told_once() -> None:
    one = make_row(case="a", tp=1, settings={"global_batch_size": 128, "layout": {"tp": 1}, "recompute": "none"})
    other = make_row(
        case="b",
        tp=2,
        global_batch_size=64,
        settings={"global_batch_size": 64, "layout": {"tp": 2}, "recompute": "full"},
    )

    (line,) = matched([one], [other], equal=["model"]).lines

    assert line.differs == ("global_batch_size 128 / 64", "tp 1 / 2", "recompute")


def test_lines_of_equal_columns_are_told_apart_by_a_case() -> None:
    names = ["model", "gpus"]
    one = [make_row(case="a", global_batch_size=64), make_row(case="b"), make_row(case="c", gpus=16)]
    other = [make_row(case="d", global_batch_size=64), make_row(case="e"), make_row(case="f", gpus=16)]

    labels = [line.label for line in matched(one, other, equal=names).lines]

    assert labels == ["llama3-8b 8 GPUs, a", "llama3-8b 8 GPUs, b", "llama3-8b 16 GPUs"]


def test_every_facet_has_a_value_of_any_row() -> None:
    for value_of in FACETS.values():
        assert isinstance(value_of(make_row()), (str, int, type(None)))
