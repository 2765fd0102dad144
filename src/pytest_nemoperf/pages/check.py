"""Differences of a page from the rows it is made of: cells, rows, tables, other generated text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.errors import count_text, shorten
from pytest_nemoperf.pages.markers import Block, Page
from pytest_nemoperf.visible import plain_text

_MAX_LINES: Final = 5
_MAX_SHOWN: Final = 120
_CELL_BAR: Final = "\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A table of a block.

    Attributes:
        title: Headings above it.
        columns: Heads of its columns.
        rows: Cells of its rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def page_differences(page: Page, *, renewed: Page, subject: str) -> list[str]:
    """Return a sentence for each difference of a page from the one with its blocks filled anew.

    Args:
        page: The page as it stands.
        renewed: The same page, its blocks filled anew.
        subject: Its name in messages.
    """
    found = []
    for block, fresh in zip(page.blocks, renewed.blocks, strict=True):
        if block.content != fresh.content:
            place = f"{subject}:{block.line}: {block.kind}"
            differences = list(_block_differences(block, fresh))
            if not differences:  # a heading without a table, or the rule of one
                differences = list(_text_differences(_words_of(block), _words_of(fresh)))
            if not differences:
                differences = ["empty lines, spaces, line ends or the order of lines are others"]
            found += [plain_text(f"{place}: {each}") for each in differences]
    return found


def _block_differences(block: Block, fresh: Block) -> Iterator[str]:
    old_tables, old_text = _split(block.content)
    new_tables, new_text = _split(fresh.content)
    old_by_title = {table.title: table for table in old_tables}
    new_by_title = {table.title: table for table in new_tables}
    for title, new in new_by_title.items():
        old = old_by_title.get(title)
        if old is None:
            yield f"{title}: the page lacks this table of {count_text(len(new.rows), 'row')}"
        elif old.columns != new.columns:
            yield f"{title}: the page has columns {_cells(old.columns)}, it must have {_cells(new.columns)}"
        else:
            for each in _row_differences(old.rows, new.rows, columns=new.columns):
                yield f"{title}: {each}"
    for title, old in old_by_title.items():
        if title not in new_by_title:
            yield f"{title}: superfluous table of {count_text(len(old.rows), 'row')}"
    yield from _text_differences(old_text, new_text)


def _row_differences(
    old: Sequence[tuple[str, ...]], new: Sequence[tuple[str, ...]], *, columns: Sequence[str]
) -> Iterator[str]:
    """Yield the differing cells of rows that belong together, then missing and superfluous rows.

    Equal rows belong together, then rows of one first cell that have the most cells in common.
    """
    left = list((Counter(old) - Counter(new)).elements())
    wanted = list((Counter(new) - Counter(old)).elements())
    missing = []
    by_name: dict[str, list[tuple[str, ...]]] = {}
    for row in left:
        by_name.setdefault(row[0], []).append(row)
    for row in wanted:
        candidates = by_name.get(row[0], [])
        if not candidates:
            missing.append(row)
            continue
        nearest = max(candidates, key=lambda candidate: _num_equal(candidate, row))
        candidates.remove(nearest)
        yield from _cell_differences(nearest, row, columns=columns)
    for row in missing:
        yield f"row {_cells(row)} is missing"
    for candidates in by_name.values():
        for row in candidates:
            yield f"row {_cells(row)} is superfluous"


def _num_equal(old: Sequence[str], new: Sequence[str]) -> int:
    return sum(map(str.__eq__, old, new))


def _cell_differences(old: Sequence[str], new: Sequence[str], *, columns: Sequence[str]) -> Iterator[str]:
    if len(old) != len(new):
        yield f"row {_shown(new[0])}: the page has {count_text(len(old), 'cell')}, it must have {len(new)}"
        return
    for column, before, after in zip(columns, old, new, strict=True):
        if before != after:
            yield f"row {_shown(new[0])}: {column}: the page has {_shown(before)}, the rows have {_shown(after)}"


def _text_differences(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yield the first lines that only one of two texts has."""
    surplus = list((Counter(old) - Counter(new)).elements())
    absent = list((Counter(new) - Counter(old)).elements())
    for line in surplus[:_MAX_LINES]:
        yield f"line {_shown(line)} is not generated"
    if len(surplus) > _MAX_LINES:
        yield f"{count_text(len(surplus) - _MAX_LINES, 'more line')} not generated"
    for line in absent[:_MAX_LINES]:
        yield f"line {_shown(line)} is missing"
    if len(absent) > _MAX_LINES:
        yield f"{count_text(len(absent) - _MAX_LINES, 'more line')} missing"


def _words_of(block: Block) -> list[str]:
    """Return the lines of a block without the spaces around them; no empty ones."""
    lines = [line.strip() for line in block.content.split("\n")]
    return [line for line in lines if line]


def _split(content: str) -> tuple[list[_Table], list[str]]:
    """Return the tables of a block by the headings above them, and its other lines."""
    tables: list[_Table] = []
    text: list[str] = []
    headings: list[tuple[int, str]] = []
    titles: Counter[str] = Counter()
    rows: list[tuple[str, ...]] = []
    for line in [*content.split("\n"), ""]:
        stripped = line.strip()
        if stripped.startswith("|"):
            rows.append(_row_cells(stripped))
            continue
        if rows:
            title = " > ".join([heading for _, heading in headings]) or "table"
            titles[title] += 1
            if titles[title] > 1:
                title += f" ({titles[title]})"
            tables.append(_Table(title=title, columns=rows[0], rows=tuple(rows[2:])))
            rows = []
        heading = stripped.lstrip("#")
        depth = len(stripped) - len(heading)
        if depth:
            headings = [each for each in headings if each[0] < depth]
            headings.append((depth, heading.strip()))
        elif stripped:
            text.append(stripped)
    return tables, text


def _row_cells(line: str) -> tuple[str, ...]:
    """Return the cells of a row; a bar behind a backslash is text."""
    inner = line.replace("\\|", _CELL_BAR).strip("|")
    return tuple([cell.strip().replace(_CELL_BAR, "\\|") for cell in inner.split("|")])


def _cells(row: Sequence[str]) -> str:
    return _shown(" | ".join(row))


def _shown(text: str) -> str:
    return repr(shorten(plain_text(text), most=_MAX_SHOWN))
