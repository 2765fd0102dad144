from __future__ import annotations

from pytest_nemoperf.report.console import to_text
from pytest_nemoperf.report.terminal.frameworks import framework_parts
from tests.report.blocks import table
from tests.report.builders import make_comparison


def lines_at(width: int) -> list[str]:
    return to_text(framework_parts((make_comparison(),), width=width), width=width, color=False).splitlines()


def test_a_table_has_each_framework_beside_the_reference() -> None:
    lines = lines_at(100)

    rows = table(lines, key="framework", column="/ torch")
    assert list(rows) == ["torch", "megatron", "automodel"]
    assert rows["torch"]["/ torch"] == "1.000"
    assert rows["megatron"] == {
        "framework": "megatron",
        "tokens/sec/GPU": "1,500",
        "TFLOP/s/GPU": "1.5",
        "peak GiB": "1",
        "/ torch": "1.500",
        "loss diff": "+0.0012%",
        "spread": "20%",
    }
    assert set(rows["automodel"].values()) == {"automodel", "-"}


def test_reasons_and_cautions_follow_the_table() -> None:
    text = " ".join(" ".join(lines_at(100)).split())

    assert "automodel: Automodel has no CPU path megatron beside torch: the ranges" in text
    assert "Frameworks ran one after the other" in text


def test_a_narrow_terminal_has_names_above_their_figures() -> None:
    lines = lines_at(76)

    assert max(map(len, lines)) <= 76
    place = lines.index("  megatron")
    assert lines[place + 1].split() == ["1,500", "1.5", "1", "1.500", "+0.0012%", "20%"]


def test_without_such_recipes_there_is_no_section() -> None:
    assert list(framework_parts((), width=80)) == []
