"""Rows beside each other in the terminal: a table a metric, with the best of each line marked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.console import QUIET, indented, section, styled, to_text, unfolded
from pytest_nemoperf.report.side_by_side import (
    Compared,
    compared_sentence,
    has_figures,
    headings,
    line_cells,
    marked,
    notes,
    unmatched_labels,
    unmatched_sentence,
)
from pytest_nemoperf.report.terminal.rows import table_parts
from pytest_nemoperf.visible import plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_DIFFERING: Final = 20


def render_side_by_side(compared: Compared, *, width: int, color: bool) -> str:
    """Return rows beside each other as tables.

    Args:
        compared: The rows and their figures.
        width: Columns of the terminal.
        color: Whether to use terminal colours.
    """
    return to_text(_parts(compared, width=width), width=width, color=color)


def _parts(compared: Compared, *, width: int) -> Iterator[RenderableType]:
    matched = compared.matched
    yield plain_text(compared_sentence(matched))
    heads = headings(matched)
    for metric, lines in compared.tables:
        yield section(METRICS[metric].label)
        cells = [heads]
        for each in filter(has_figures, lines):
            texts = [marked(text, is_best=is_best) if text else "" for text, is_best in line_cells(each)]
            cells.append([each.line.label, *[text.rstrip() for text in texts]])
        yield from table_parts(cells, are_text=[True, *[False] * (len(heads) - 1)], width=width)
    yield ""
    for note in notes(compared):
        yield styled((plain_text(note), QUIET))
    differing = [line for line in matched.lines if line.differs]
    shown = differing if compared.is_whole else differing[:_MAX_DIFFERING]
    if shown:
        yield section("also differ")
    for line in shown:
        yield indented(plain_text(f"{line.label}: {'; '.join(line.differs)}"))
    if len(shown) < len(differing):
        yield indented(f"and {len(differing) - len(shown)} more; --all names them")
    alone = unmatched_sentence(matched)
    if alone:
        hint = "" if compared.is_whole else " --all lists them."
        yield styled("\n", plain_text(f"{alone}{hint}"))
    if compared.is_whole:
        for name, rows in zip(matched.names, matched.unmatched, strict=True):
            if rows:
                yield section(plain_text(f"only {name} has"))
                yield from [unfolded(plain_text(label)) for label in unmatched_labels(rows)]
