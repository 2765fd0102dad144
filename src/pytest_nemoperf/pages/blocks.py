"""Kinds of blocks, and the filling of a page: each kind is a function of rows and arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import PageError
from pytest_nemoperf.pages.markers import Block, Page, filled
from pytest_nemoperf.pages.selection import Selection, parse_selection
from pytest_nemoperf.pages.sources import PageRows
from pytest_nemoperf.pages.table_blocks import native_block, published_block, releases_block, tables_block
from pytest_nemoperf.pages.text_blocks import changes_block, metrics_block, notes_block
from pytest_nemoperf.results.row import Row

BLOCKS: Final[Mapping[str, Callable[[PageRows, Selection], list[str]]]] = MappingProxyType(
    {
        "metrics": metrics_block,
        "tables": tables_block,
        "native": native_block,
        "releases": releases_block,
        "published": published_block,
        "changes": changes_block,
        "notes": notes_block,
    }
)
"""Lines of each kind of block."""


_MEASURED: Final = ("tables", "native")
"""Kinds of blocks that show measured rows."""


def fill_page(page: Page, *, rows: PageRows, subject: str) -> Page:
    """Return a page with its blocks filled anew.

    Args:
        page: The page, or a template: a page with empty blocks.
        rows: Rows to fill it with.
        subject: Its name in messages.

    Raises:
        PageError: If there is no block, or a block's kind, argument or value is unknown, with the line's number.
    """
    if not page.blocks:
        raise PageError(
            f"{subject}: has no blocks to fill; put <!-- nemoperf:begin tables --> and <!-- nemoperf:end --> on lines "
            "of their own, or begin with a template: nemoperf page dfm"
        )
    selections = {block.line: parse_selection(block, subject=subject) for block in page.blocks}

    def content(block: Block) -> list[str]:
        lines = BLOCKS[block.kind](rows, selections[block.line])
        while lines and not lines[-1]:  # the block's own empty line follows
            lines.pop()
        return lines

    return filled(page, content=content)


def unshown_rows(page: Page, *, rows: PageRows, subject: str) -> list[Row]:
    """Return measured rows of the page's workloads that no block shows: none names their system and framework.

    Rows of other workloads are left to other pages.
    """
    blocks = [block for block in page.blocks if block.kind in _MEASURED]
    shown: set[tuple[str, str]] = set()
    wanted: dict[tuple[str, str], Row] = {}
    for block in blocks:
        selection = parse_selection(block, subject=subject)
        for row in selection.of(rows.measured, is_native=block.kind == "native"):
            shown.add((row.system, row.case))
        for row in rows.measured:
            if selection.has_workload(row):
                wanted[row.system, row.case] = row
    return [row for key, row in wanted.items() if key not in shown]
