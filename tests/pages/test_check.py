from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.pages.check import page_differences
from pytest_nemoperf.pages.markers import filled, parse_page

HEAD = ("#### System: DGX-H100", "", "| Model | TP | Rate |", "| --- | --- | --- |")
ROWS = ("| a | 1 | 100 |", "| a | 2 | 200 |", "| b | 1 | 300 |")
TEMPLATE = "<!-- nemoperf:begin tables -->\n<!-- nemoperf:end -->\n"


def differences(*lines: str, now: tuple[str, ...] = (*HEAD, *ROWS)) -> list[str]:
    """Return the differences of a page with these lines from the one with the lines of now."""
    template = parse_page(TEMPLATE, subject="a.md")
    page = parse_page(filled(template, content=lambda _: lines).text, subject="a.md")
    return page_differences(page, renewed=filled(page, content=lambda _: now), subject="a.md")


def test_the_same_page_has_no_differences() -> None:
    assert differences(*HEAD, *ROWS) == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            (*HEAD, ROWS[0], "| a | 2 | 250 |", ROWS[2]),
            ["row 'a': Rate: the page has '250', the rows have '200'"],
            id="figure",
        ),
        pytest.param(
            (*HEAD, ROWS[0], "| a | 4 | 250 |", ROWS[2]),
            [
                "row 'a': TP: the page has '4', the rows have '2'",
                "row 'a': Rate: the page has '250', the rows have '200'",
            ],
            id="two cells",
        ),
        pytest.param((*HEAD, *ROWS[1:]), ["row 'a | 1 | 100' is missing"], id="missing"),
        pytest.param((*HEAD, *ROWS, "| c | 1 | 9 |"), ["row 'c | 1 | 9' is superfluous"], id="superfluous"),
        pytest.param((*HEAD, *ROWS, ROWS[0]), ["row 'a | 1 | 100' is superfluous"], id="twice"),
        pytest.param((*HEAD, "| a | 1 |", *ROWS[1:]), ["row 'a': the page has 2 cells, it must have 3"], id="cells"),
        pytest.param(
            (HEAD[0], "", "| Model | TP | Speed |", HEAD[3], *ROWS),
            ["the page has columns 'Model | TP | Speed', it must have 'Model | TP | Rate'"],
            id="columns",
        ),
    ],
)
def test_a_difference_names_table_row_and_column(lines: tuple[str, ...], expected: list[str]) -> None:
    assert differences(*lines) == [f"a.md:1: tables: System: DGX-H100: {each}" for each in expected]


def test_a_table_that_is_missing_or_superfluous_is_named() -> None:
    assert differences("#### Other", *HEAD[1:], *ROWS) == [
        "a.md:1: tables: System: DGX-H100: the page lacks this table of 3 rows",
        "a.md:1: tables: Other: superfluous table of 3 rows",
    ]


def test_tables_of_one_title_under_two_sections_are_told_apart() -> None:
    two = ("### On", *HEAD, ROWS[0], "", "### Off", *HEAD, ROWS[1])

    found = differences("### On", *HEAD, ROWS[0], "", "### Off", *HEAD, ROWS[2], now=two)

    assert found == [
        "a.md:1: tables: Off > System: DGX-H100: row 'a | 2 | 200' is missing",
        "a.md:1: tables: Off > System: DGX-H100: row 'b | 1 | 300' is superfluous",
    ]


def test_a_bar_behind_a_backslash_is_part_of_its_cell() -> None:
    now = (*HEAD, r"| a\|b | 1 | 100 |")

    assert differences(*HEAD, r"| a\|b | 1 | 101 |", now=now) == [
        r"a.md:1: tables: System: DGX-H100: row 'a\\|b': Rate: the page has '101', the rows have '100'"
    ]


def test_a_line_of_hand_below_a_table_is_found() -> None:
    found = differences(*HEAD, *ROWS, "", "by hand")

    assert found == ["a.md:1: tables: line 'by hand' is not generated"]


@pytest.mark.parametrize(
    ("old", "new"), [("### Release 0.3", "### Release 0.2"), ("| :-: | --- | --- |", HEAD[3])], ids=["heading", "rule"]
)
def test_a_heading_without_a_table_and_a_rule_are_named(old: str, new: str) -> None:
    now = ("### Release 0.2", "", "No rows.", "", "### Release 0.1", "", *HEAD, *ROWS)
    page = [old if line == new else line for line in now]

    assert differences(*page, now=now) == [
        f"a.md:1: tables: line '{old}' is not generated",
        f"a.md:1: tables: line '{new}' is missing",
    ]


def test_a_hostile_page_sends_no_escapes_to_the_terminal() -> None:
    found = differences("#### \x1b[2J\x1b]0;x\x07Title", *HEAD[1:], "| \x1b[31ma | 1 | 2 |", "\x1b[0m\u202eby hand")

    assert found
    assert "\x1b" not in "".join(found)
    assert "\u202e" not in "".join(found)


def test_many_lines_are_counted() -> None:
    found = differences(*HEAD, *ROWS, "", *map(str, range(8)))

    assert len(found) == 6
    assert found[-1] == "a.md:1: tables: 3 more lines not generated"


def test_lines_in_another_order_are_a_difference() -> None:
    assert differences(*HEAD, ROWS[1], ROWS[0], ROWS[2]) == [
        "a.md:1: tables: empty lines, spaces, line ends or the order of lines are others"
    ]


@given(st.text(alphabet="|-#\\ ab\n", max_size=60), st.text(alphabet="|-#\\ ab\n", max_size=60))
def test_pages_that_differ_have_differences_and_others_none(old: str, new: str) -> None:
    old_lines, new_lines = old.split("\n"), new.split("\n")

    found = differences(*old_lines, now=tuple(new_lines))

    assert bool(found) == (old_lines != new_lines)
