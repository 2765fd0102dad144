"""Pages read as GitHub and MyST read them: tables with their cells, headings, raw HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What a reader of a page sees.

    Attributes:
        headings: Level and text of each heading.
        tables: Of each table its rows of cells, the head first.
        html: Raw HTML, comments apart.
        links: Addresses of links.
        text: Everything else.
    """

    headings: tuple[tuple[int, str], ...]
    tables: tuple[tuple[tuple[str, ...], ...], ...]
    html: tuple[str, ...]
    links: tuple[str, ...]
    text: str


def rendered(page: str) -> Rendered:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    headings: list[tuple[int, str]] = []
    tables: list[tuple[tuple[str, ...], ...]] = []
    html: list[str] = []
    links: list[str] = []
    text: list[str] = []
    rows: list[list[str]] = []
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        match token.type:
            case "heading_open" if following is not None:
                headings.append((int(token.tag[1:]), shown(following.children or ())))
            case "table_open":
                rows = []
            case "table_close":
                tables.append(tuple(map(tuple, rows)))
            case "tr_open":
                rows.append([])
            case "th_open" | "td_open" if following is not None:
                rows[-1].append(shown(following.children or ()))
            case "html_block":
                html += [line for line in token.content.splitlines() if line and not line.startswith("<!--")]
            case "inline":
                html += [child.content for child in token.children or () if child.type == "html_inline"]
                links += [str(child.attrs["href"]) for child in token.children or () if child.type == "link_open"]
                text.append(shown(token.children or ()))
    return Rendered(
        headings=tuple(headings), tables=tuple(tables), html=tuple(html), links=tuple(links), text="\n".join(text)
    )


def shown(tokens: Sequence[Token]) -> str:
    """Return the text of a line as a reader sees it."""
    parts = []
    for token in tokens:
        if token.type in ("text", "code_inline", "text_special"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts)
