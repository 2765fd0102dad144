from __future__ import annotations

from tests.published.rows import all_rows
from tests.published.summary import MARKS, PAGE, tables


def test_the_counts_of_the_page_are_those_of_the_data() -> None:
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])

    assert rest.partition(MARKS[1])[0] == tables(), "run python -m tests.published.summary"


def test_the_figures_in_the_text_are_those_of_the_data() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = all_rows()

    assert f"{len(rows)} of these rows" in text.replace("\n", " ")
    with_totals = [row for row in rows if "total_tokens_per_sec" in row.printed]
    assert f"all {len(with_totals)} rows that print them" in text
