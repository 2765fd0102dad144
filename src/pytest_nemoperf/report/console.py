"""Terminal text by rich: folded to a width, with or without colour, ASCII only."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING

from pytest_nemoperf.report.cells import INJECTION_MEANING, injection_text, shorten_middle
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.visible import visible_text

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.segment import Segment
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

    Environment variables and the terminal do not change colour and width.
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
        # Console.print joins its arguments into a new Text, which loses the part's own wrapping options
        no_wrap, overflow = getattr(part, "no_wrap", None), getattr(part, "overflow", None)
        console.print(_Visible(part), crop=False, no_wrap=no_wrap, overflow=overflow)
    lines = file.getvalue().rstrip("\n").split("\n")
    return "\n".join(map(str.rstrip, lines))


class _Visible:
    """A part without characters that a terminal obeys or hides: of logs, recipes and files, not of rich's styles."""

    def __init__(self, part: RenderableType) -> None:
        self._part = part

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in console.render(self._part, options):
            yield segment._replace(text=visible_text(segment.text))


def styled(*spans: str | tuple[str, str]) -> Text:
    """Return text assembled from spans, each plain or (text, style)."""
    from rich.text import Text  # noqa: PLC0415 (slow to import)

    return Text.assemble(*spans)


def heading(text: str) -> Text:
    """Return the line above a section."""
    return styled((text, "bold"))


def headline(mark: tuple[str, str], kind: tuple[str, str], case: str) -> Text:
    """Return the first line of a case's report, never folded, so that its id can be copied."""
    from rich.text import Text  # noqa: PLC0415 (slow to import)

    return Text.assemble(mark, kind, " ", (case, "bold"), no_wrap=True, overflow="ignore")


def section(text: str) -> Text:
    """Return the line above a section, after an empty one."""
    return styled("\n", (text, "bold"))


def verdict_text(kind: VerdictKind) -> Text:
    """Return a verdict in its colour."""
    return styled((kind.value, style_of(kind)))


def indented(part: RenderableType, *, columns: int = 2) -> RenderableType:
    """Return a part with all its lines indented, folded ones too."""
    from rich.padding import Padding  # noqa: PLC0415 (slow to import)

    if isinstance(part, str):
        part = styled(part)
    return Padding(part, (0, 0, 0, columns), expand=False)


def unfolded(text: str) -> Text:
    """Return an indented line that is never folded, for paths that must survive copying."""
    from rich.text import Text  # noqa: PLC0415 (slow to import)

    return Text(f"  {text}", no_wrap=True, overflow="ignore")


def whole_lines(spans: Sequence[tuple[str, str]]) -> Text:
    """Return lines, each a text and its style, that are never folded; the last newline is left out."""
    from rich.text import Text  # noqa: PLC0415 (slow to import)

    text = Text.assemble(*spans, no_wrap=True, overflow="ignore")
    text.right_crop(1)
    return text


def fitted(text: str, *, width: int) -> str:
    """Return text in at most width columns of the terminal, of which some characters take two."""
    from rich.cells import cell_len  # noqa: PLC0415 (slow to import)

    shown = text
    kept = min(len(text), width)
    while cell_len(shown) > width:
        shown = shorten_middle(text, width=kept)
        kept -= 1
    return shown


class _NameCell:
    """A name in a table: on one line, without its middle in too narrow a column."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield styled(fitted(self._name, width=options.max_width))

    def __rich_measure__(self, _console: Console, options: ConsoleOptions) -> Measurement:
        from rich.cells import cell_len  # noqa: PLC0415 (slow to import)
        from rich.measure import Measurement  # noqa: PLC0415 (slow to import)

        width = min(cell_len(self._name), options.max_width)
        return Measurement(width, width)


def add_figures(table: Table, name: str, *figures: RenderableType, style: str = "") -> None:
    """Add a row to a table of figures; a name that is too long for it loses its middle, and is not folded."""
    table.add_row(_NameCell(name), *figures, style=style)


def figures_table(headings: Sequence[str]) -> Table:
    """Return an empty table: names to the left, figures to the right, no rules; see add_figures."""
    from rich.table import Table  # noqa: PLC0415 (slow to import)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=QUIET)
    table.add_column(headings[0], overflow="fold")
    for figure in headings[1:]:
        table.add_column(figure, justify="right", overflow="fold")
    return table


def column_widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Return the width of each column's widest cell."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def align(rows: Sequence[Sequence[str]], *, num_left: int) -> list[str]:
    """Return one line a row, columns as wide as their widest cell.

    Args:
        rows: Cells; every row has the same number.
        num_left: Leading columns set to the left; the others are figures, set to the right.
    """
    widths = column_widths(rows)
    lines = []
    for row in rows:
        left = map(str.ljust, row[:num_left], widths[:num_left])
        right = map(str.rjust, row[num_left:], widths[num_left:])
        lines.append(_GAP.join((*left, *right)))
    return lines


def injection_banner(inject_pct: float, *, width: int) -> Text:
    """Return the banner of a self-test, above and below its results."""
    room = max(width - 2 * len(_BANNER_EDGE) - 2, 1)
    lines = ["!" * width]
    for sentence in (injection_text(inject_pct), INJECTION_MEANING):
        for piece in textwrap.wrap(sentence, room, break_on_hyphens=False):
            lines.append(f"{_BANNER_EDGE} {piece.ljust(room)} {_BANNER_EDGE}")
    lines.append("!" * width)
    return styled(("\n".join(lines), ALARM))
