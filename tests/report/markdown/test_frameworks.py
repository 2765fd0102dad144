from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.report.markdown.pretrain import render_markdown
from tests.report.blocks import page_tables
from tests.report.builders import make_comparison, make_passed, make_results


def page(*, inject_pct: float = 0.0) -> list[str]:
    results = replace(make_results(make_passed(), inject_pct=inject_pct), by_framework=(make_comparison(),))
    return render_markdown(results).splitlines()


def test_frameworks_side_by_side_are_a_section_of_the_page() -> None:
    lines = page()

    assert lines.index("## Native Engine Pre-Training Performance") < lines.index("## Side by side")
    _, rows = page_tables(lines)
    assert rows[1] == {
        "Framework": "megatron",
        "Tokens / sec / GPU": "1500",
        "Model TFLOP / sec / GPU": "1.5",
        "Peak memory (GiB)": "1",
        "Ratio to torch": "1.500",
        "Loss beside torch": "+0.0012%",
        "Spread": "20%",
        "Tokens / sec / GPU, min .. max": "1400 .. 1700",
        "Launches": "3",
    }
    assert "- automodel: Automodel has no CPU path" in lines


def test_a_self_test_marks_the_table() -> None:
    assert any("INJECTED DELAY, NOT A RESULT" in line and "seq64" in line for line in page(inject_pct=20.0))
