"""Terminal text by rich: folded to a width, with colour or without, and nothing but ASCII of our own."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.report.cells import INJECTION_MEANING, injection_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

QUIET = "dim"
ALARM = "bold white on red"
_HEIGHT = 25  # rich ignores the width of a dumb terminal unless the height is given too
_GAP = "  "
_BANNER_EDGE = "!!"


def style_of(kind: VerdictKind) -> str:
    """Return the rich style of a verdict."""
    match kind:
        case VerdictKind.PASSED:
            return "green"
        case VerdictKind.IMPROVED:
            return "bold cyan"
        case VerdictKind.REGRESSED | VerdictKind.INVALID:
            return "bold red"
        case VerdictKind.INCONCLUSIVE | VerdictKind.NOT_COMPARABLE | VerdictKind.NO_BASELINE:
            return "yellow"


def to_text(parts: Iterable[RenderableType], *, width: int, color: bool) -> str:
    """Return the parts below each other as lines of at most width columns (paths excepted), no newline at the end.

    What the surroundings say about colour and size is ignored: the arguments alone decide.
    """
    from rich.console import Console  # noqa: PLC0415 (slow to import)

    file = StringIO()
    console = Console(
        file=file,
        width=width,
        height=_HEIGHT,
        force_terminal=color,
        force_interactive=False,
        force_jupyter=False,
        color_system="standard" if color else None,
        no_color=not color,
        legacy_windows=False,
        markup=False,
        emoji=False,
        highlight=False,
    )
    for part in parts:
        # rich joins what it prints into a text of its own, which forgets how the part was to be wrapped
        console.print(
            part, crop=False, no_wrap=getattr(part, "no_wrap", None), overflow=getattr(part, "overflow", None)
        )
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip("\n").split("\n"))


def styled(*spans: str | tuple[str, str]) -> Text:
    """Return text put together from spans, plain or (span, style)."""
    from rich.text import Text  # noqa: PLC0415 (slow to import)

    return Text.assemble(*spans)


def heading(text: str) -> Text:
    """Return the line above a section."""
    return styled((text, "bold"))


def verdict_text(kind: VerdictKind) -> Text:
    """Return a verdict in its colour."""
    return styled((kind.value, style_of(kind)))


def indented(part: RenderableType, *, columns: int = 2) -> RenderableType:
    """Return a part of which every line, folded ones included, starts so many columns to the right."""
    from rich.padding import Padding  # noqa: PLC0415 (slow to import)

    return Padding(styled(part) if isinstance(part, str) else part, (0, 0, 0, columns), expand=False)


def whole(text: str) -> Text:
    """Return an indented line that is never folded: a path must survive copying, so the terminal wraps it."""
    from rich.text import Text  # noqa: PLC0415 (slow to import)

    return Text(f"  {text}", no_wrap=True, overflow="ignore")


def figures_table(headings: Sequence[str]) -> Table:
    """Return an empty table: names to the left, figures to the right, no rules."""
    from rich.table import Table  # noqa: PLC0415 (slow to import)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET)
    table.add_column(headings[0], overflow="fold")
    for figure in headings[1:]:
        table.add_column(figure, justify="right", overflow="fold")
    return table


def align(rows: Sequence[Sequence[str]], *, num_left: int) -> list[str]:
    """Return one line a row, columns as wide as their widest cell.

    Args:
        rows: Cells; every row has the same number.
        num_left: Leading columns set to the left; the others are figures, set to the right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        _GAP.join(
            cell.ljust(width) if place < num_left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def injection_banner(inject_pct: float, *, width: int) -> Text:
    """Return the block that keeps a self-test from being taken for a result."""
    room = max(width - 2 * len(_BANNER_EDGE) - 2, 1)
    lines = ["!" * width]
    for sentence in (injection_text(inject_pct), INJECTION_MEANING):
        lines += [
            f"{_BANNER_EDGE} {piece.ljust(room)} {_BANNER_EDGE}"
            for piece in textwrap.wrap(sentence, room, break_on_hyphens=False)
        ]
    lines.append("!" * width)
    return styled(("\n".join(lines), ALARM))
