from __future__ import annotations

from pytest_nemoperf.report.console import to_text
from pytest_nemoperf.report.terminal.frameworks import framework_parts
from tests.report.blocks import case_rows
from tests.report.builders import make_comparison


def lines_at(width: int) -> list[str]:
    return to_text(framework_parts((make_comparison(),), width=width), width=width, color=False).splitlines()


def test_a_table_has_each_framework_beside_the_reference() -> None:
    lines = lines_at(100)

    rows = case_rows(lines, title="framework", column="/ torch")
    assert list(rows) == ["torch", "megatron", "automodel"]
    assert rows["torch"]["/ torch"] == "1.000"
    assert rows["megatron"] == {
        "tokens/s/GPU": "1,500",
        "TFLOP/s/GPU": "1.5",
        "peak GiB": "1",
        "/ torch": "1.500",
        "loss diff": "+0.0012%",
        "spread": "20%",
    }
    assert set(rows["automodel"].values()) == {"-"}


def test_reasons_and_cautions_follow_the_table() -> None:
    text = " ".join(" ".join(lines_at(100)).split())

    assert "automodel: Automodel has no CPU path megatron beside torch: the ranges" in text
    assert "Frameworks ran one after the other" in text


def test_a_narrow_terminal_leaves_out_columns_and_folds_no_row() -> None:
    lines = lines_at(50)

    assert max(map(len, lines)) <= 50
    assert list(case_rows(lines, title="framework", column="/ torch")["megatron"]) == [
        "tokens/s/GPU",
        "peak GiB",
        "/ torch",
        "loss diff",
    ]


def test_without_such_recipes_there_is_no_section() -> None:
    assert list(framework_parts((), width=80)) == []
