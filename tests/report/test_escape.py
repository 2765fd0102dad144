"""Escapes, checked by a parser of Markdown: whatever a text holds, the page shows exactly that text."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_nemoperf.report.escape import code, code_cell, fenced, html_text, markdown_cell, markdown_text
from pytest_nemoperf.visible import plain_text, visible_text

_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
_TAGS = re.compile(r"</?(p|span|code)>")
_HOSTILE = (
    "a|b", "a\\|b", "a\\", "<script>alert(1)</script>", "<!-- nemoperf:end -->", "&lt;", "AT&T", "*b*", "__b__", "_i_",
    "a__b", "~~s~~", "$x$", "{math}`x`", "[a](javascript:x)", "![a](b)", "# h", "- l", "+ l", "1. l", "1) l", "> q",
    "---", "===", "```", "`a`", "``a``", "<https://evil.example>", "x\u202ey", "\x1b[31mred\x1b[0m", "a\nb\n\n# c",
    "</details>", "a\u2028b", "| a | b |", "|---|", "% c", "(t)=", "::: x", ":n: v", "+++", "\x1b]0;title\x07x",
)  # fmt: skip
PLAIN_NAMES = (
    "LLAMA3.1_70B",
    "llama3-8b",
    "DeepSeekV3 (w/o MTP)",
    "Qwen3_30B_a3B",
    "pretrain-llama3-8b-1n8g-torch-bf16-fsdp4tp2-seq8192-gbs128-mbs1",
    "peak_memory_gib",
    "-16.7%",
)


def shown(rendered: str) -> str:
    """Return the text that a browser shows of rendered Markdown."""
    return html.unescape(_TAGS.sub("", rendered)).strip()


def cells_of(*cells: str) -> list[str]:
    """Return the rendered cells of a row of a table."""
    line = " | ".join(cells)
    rule = "|".join(["---"] * len(cells))
    head = "|".join("h" * len(cells))
    rendered = _PARSER.render(f"|{head}|\n|{rule}|\n| {line} |\n")
    return re.findall(r"<td>(.*?)</td>", rendered, re.DOTALL)


@pytest.mark.parametrize("text", _HOSTILE)
def test_hostile_text_is_shown_as_it_is(text: str) -> None:
    assert shown(_PARSER.render(markdown_text(text))) == plain_text(text)
    assert [shown(cell) for cell in cells_of(markdown_cell(text), "next")] == [plain_text(text), "next"]
    assert [shown(cell) for cell in cells_of(code_cell(text), "next")] == [plain_text(text), "next"]


@given(st.text(max_size=40))
@example("x`")
def test_any_text_is_shown_as_it_is(text: str) -> None:
    plain = plain_text(text)

    assert shown(_PARSER.render(markdown_text(text))) == plain
    assert [shown(cell) for cell in cells_of(markdown_cell(text), "next")] == [plain, "next"]
    if plain:
        rendered = _PARSER.renderInline(f"a {code(text)} b")
        assert html.unescape(rendered) == f"a <code>{plain}</code> b"


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_ordinary_names_stay_readable_in_a_cell(name: str) -> None:
    assert markdown_cell(name) == name


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        pytest.param("https://evil.example", "https\\://evil.example", id="address"),
        pytest.param("www.evil.example", "www\\.evil.example", id="www"),
        pytest.param("a@b.example", "a<span>@</span>b.example", id="mail"),
        pytest.param("@everyone", "<span>@</span>everyone", id="mention"),
        pytest.param("$x$", "<span>\\$</span>x<span>\\$</span>", id="formula"),
        pytest.param("{ref}`x`", "\\{ref\\}\\`x\\`", id="role of MyST"),
        pytest.param("image@sha256:12", "image@sha256:12", id="digest"),
    ],
)
def test_what_github_and_myst_read_beyond_markdown_is_escaped(text: str, escaped: str) -> None:
    assert markdown_cell(text) == escaped


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        pytest.param("\x1b[31;1mred\x1b[0m", "red", id="colour"),
        pytest.param("\x1b]0;owned\x07title", "title", id="title"),
        pytest.param("\x1b]8;;https://x.y\x1b\\link\x1b]8;;\x1b\\", "link", id="link"),
        pytest.param("\x1b]52;c;aGk=", "", id="clipboard, not ended"),
        pytest.param("\x9b2Jx", "x", id="eight-bit sequence"),
        pytest.param("a\rb\x08\x00c", "a bc", id="controls"),
        pytest.param("a\u202eb\u2066c\u200d\ufeffd", "abcd", id="direction and joiners"),
        pytest.param("a\u3164\ufe0f\u2800b", "ab", id="fillers"),
        pytest.param("a\n\tb  c\u2029d", "a b c d", id="breaks"),
        pytest.param("half \ud800", "half", id="surrogate"),
        pytest.param("Größe 8 日本", "Größe 8 日本", id="other alphabets"),
    ],
)
def test_plain_text_has_nothing_that_moves_the_cursor_or_hides(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@given(st.text())
def test_plain_text_is_one_line_of_visible_characters(text: str) -> None:
    plain = plain_text(text)

    assert plain == plain_text(plain)
    assert not {unicodedata.category(character) for character in plain} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert len(plain.splitlines()) <= 1


def test_visible_text_keeps_its_lines() -> None:
    assert visible_text("a\n\tb\x1b[2J\r\nc") == "a\n\tb \nc"


def test_text_for_html_has_no_tags() -> None:
    assert html_text("<b> & \x1b[1m'x'") == "&lt;b&gt; &amp; &#x27;x&#x27;"


def test_no_line_of_a_block_of_code_ends_it() -> None:
    assert fenced("a\n````\n</details>") == ["`````text", "a", "````", "</details>", "`````"]


def test_no_text_is_no_code() -> None:
    assert code("\x1b[0m") == ""
