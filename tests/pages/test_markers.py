from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import PageError
from pytest_nemoperf.pages.markers import Block, filled, parse_page

BEGIN = "<!-- nemoperf:begin notes workload=rl -->\n"
END = "<!-- nemoperf:end -->\n"


def test_a_page_has_texts_and_blocks_in_their_order() -> None:
    page = parse_page(f"before\n{BEGIN}old\n{END}after", subject="a.md")

    (block,) = page.blocks
    assert page.parts == ("before\n", block, "after")
    assert (block.kind, block.arguments, block.line, block.content) == ("notes", {"workload": "rl"}, 2, "old\n")


def test_arguments_in_quotes_hold_spaces() -> None:
    page = parse_page(f'<!-- nemoperf:begin releases title="NeMo RL" -->\n{END}', subject="a.md")

    assert page.blocks[0].arguments == {"title": "NeMo RL"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(f"\n{BEGIN}", "a.md:2: block 'notes' is not ended; put", id="no end"),
        pytest.param(f"a\n\n{END}", "a.md:3: nemoperf:end without a nemoperf:begin", id="no begin"),
        pytest.param(BEGIN + BEGIN + END, "a.md:2: a block begins inside block 'notes' of line 1", id="nested"),
        pytest.param(f"{BEGIN}{END}\n{BEGIN}{END}", "a.md:4: block 'notes workload=rl' stands on line 1", id="twice"),
        pytest.param("<!-- nemoperf:start notes -->\n", "a.md:1: nemoperf:start is no marker", id="word"),
        pytest.param("<!-- nemoperf:begin -->\n", "a.md:1: nemoperf:begin without a kind", id="no kind"),
        pytest.param("<!-- nemoperf:begin notes rl -->\n", "a.md:1: 'rl' is no argument of a block", id="no name"),
        pytest.param("<!-- nemoperf:begin a b= -->\n", "a.md:1: 'b=' is no argument of a block", id="no value"),
        pytest.param("<!-- nemoperf:begin a b=1 b=2 -->\n", "a.md:1: argument 'b' is given twice", id="argument"),
        pytest.param("<!-- nemoperf:begin a b='1 -->\n", "can't be split into words: No closing quotation", id="quote"),
        pytest.param(f"<!-- nemoperf:begin a{' ' * 100_000}->\n", "a.md:1: a marker stands alone", id="many blanks"),
        pytest.param("text <!-- nemoperf:begin a -->\n", "a.md:1: a marker stands alone on its line", id="in a line"),
        pytest.param("<!-- nemoperf:begin\na -->\n", "a.md:1: a marker stands alone on its line", id="two lines"),
    ],
)
def test_a_broken_marker_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(PageError) as caught:
        parse_page(text, subject="a.md")

    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"```html\n{BEGIN}```\n", id="fence"),
        pytest.param(f"~~~~\n```\n{BEGIN}~~~\n~~~~\n", id="tildes"),
        pytest.param("write `<!-- nemoperf:begin notes -->` on a line\n", id="code in a line"),
    ],
)
def test_markers_in_code_are_text(text: str) -> None:
    assert parse_page(text, subject="a.md").blocks == ()


def test_a_marker_behind_a_closed_fence_counts() -> None:
    assert len(parse_page(f"```\ncode\n```\n{BEGIN}{END}", subject="a.md").blocks) == 1


def test_new_lines_stand_between_empty_ones() -> None:
    page = filled(parse_page(f"a\n{BEGIN}old\n{END}b", subject="a.md"), content=lambda _: ["new"])

    assert page.text == f"a\n{BEGIN}\nnew\n\n{END}b"


def test_new_lines_end_as_their_marker_does() -> None:
    begin, end = BEGIN.replace("\n", "\r\n"), END.replace("\n", "\r\n")

    page = filled(parse_page(f"a\n{begin}{end}b\r\n", subject="a.md"), content=lambda _: ["new"])

    assert page.text == f"a\n{begin}\r\nnew\r\n\r\n{end}b\r\n"


@given(st.text(), st.text(), st.text())
def test_a_page_read_and_written_is_the_same_byte_for_byte(before: str, inside: str, after: str) -> None:
    page = parse_page(f"x{before}\n{BEGIN}{inside}\n{END}{after}", subject="a.md")

    assert page.text == f"x{before}\n{BEGIN}{inside}\n{END}{after}"


@given(st.text(), st.text())
def test_text_around_blocks_survives_any_filling(before: str, after: str) -> None:
    page = filled(parse_page(f"x{before}\n{BEGIN}{END}{after}", subject="a.md"), content=lambda _: ["new"])

    texts = [part for part in page.parts if not isinstance(part, Block)]
    if page.blocks:  # before may open a fence, in which no marker counts
        assert texts == [f"x{before}\n", after]
