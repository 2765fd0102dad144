"""Tables with one line a case: its short name, words and figures in columns, as many as fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.report.case_names import names_within

_GAP: Final = "  "
_NAME_ENOUGH: Final = 30
"""Characters of a name that are worth more than a column that may be left out."""
_MIN_NAME: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseColumn:
    """A column behind the names.

    Attributes:
        heading: Its two lines, the unit in the lower one.
        cells: One a case.
        rank: Place in importance: columns of the highest rank are left out first, all of them, those of rank 0 never.
        is_text: Words, set to the left.
    """

    heading: tuple[str, str]
    cells: tuple[str, ...]
    rank: int = 0
    is_text: bool = False

    @property
    def width(self) -> int:
        """Characters of its widest cell."""
        return max(map(len, (*self.heading, *self.cells)))

    def padded(self, cell: str) -> str:
        """Return a cell as wide as the column."""
        return cell.ljust(self.width) if self.is_text else cell.rjust(self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseTable:
    """A table that fits.

    Attributes:
        head: Lines above it.
        rows: One line a case.
        name_width: Characters of the names' column, with its gap.
    """

    head: tuple[str, ...]
    rows: tuple[str, ...]
    name_width: int


def case_table(
    cases: Sequence[str],
    *,
    names: Mapping[str, str],
    columns: Sequence[CaseColumn],
    width: int,
    title: str = "case",
) -> CaseTable:
    """Return a table with one line a row, none longer than the width.

    Where room is short, columns are left out by their rank until a name has 30 characters; only then names are cut.

    Args:
        cases: Case id of each row; one that is that of the row above is not named again.
        names: Short names by case id.
        columns: Columns behind the names.
        width: Columns of the terminal.
        title: Heading of the names.
    """
    own = {case: names[case] for case in cases}
    wanted = max(map(len, (*own.values(), title)))
    shown = list(columns)
    while _room(shown, width=width) < min(wanted, _NAME_ENOUGH):
        rank = max(column.rank for column in shown)
        if not rank:
            break
        shown = [column for column in shown if column.rank < rank]
    room = min(wanted, max(_room(shown, width=width), _MIN_NAME))
    head = []
    for number in range(2):
        cells = [column.padded(column.heading[number]) for column in shown]
        head.append(_line(title if number else "", cells, room=room, width=width))
    rows = []
    fitting = names_within(own, width=room)
    above = ""
    for number, case in enumerate(cases):
        cells = [column.padded(column.cells[number]) for column in shown]
        rows.append(_line("" if case == above else fitting[case], cells, room=room, width=width))
        above = case
    return CaseTable(head=tuple(filter(None, head)), rows=tuple(rows), name_width=room + len(_GAP))


def name_lines(names: Iterable[str], *, width: int) -> list[str]:
    """Return names one after another, as many a line as fit; a name is never broken."""
    lines = [""]
    for name in names:
        joined = f"{lines[-1]}, {name}" if lines[-1] else name
        if len(joined) < width or not lines[-1]:
            lines[-1] = joined
        else:
            lines[-1] += ","
            lines.append(name)
    return lines


def _room(columns: Sequence[CaseColumn], *, width: int) -> int:
    """Return the characters that columns leave for names."""
    return width - sum(column.width + len(_GAP) for column in columns)


def _line(name: str, cells: Sequence[str], *, room: int, width: int) -> str:
    return _GAP.join([name.ljust(room), *cells]).rstrip()[:width]
