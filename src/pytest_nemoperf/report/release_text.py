"""Sentences on the delta of two releases, the same in Markdown and in the terminal."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.results.release_delta import ChangeKind, ReleaseDelta, RowChange
from pytest_nemoperf.results.row_ratio import Ratio

DELTA_ORDER: Final = (
    ChangeKind.SLOWER,
    ChangeKind.FASTER,
    ChangeKind.UNSURE,
    ChangeKind.NOT_COMPARABLE,
    ChangeKind.SAME,
)
"""Kinds of changes, those to look at first."""


def delta_sentence(delta: ReleaseDelta) -> str:
    """Return the counts of a delta: ``Release 0.5 against 0.4: 2 cases slower, 3 new.``."""
    counts = []
    for kind, word in (
        (ChangeKind.SLOWER, "slower"),
        (ChangeKind.FASTER, "faster"),
        (ChangeKind.SAME, "within noise"),
        (ChangeKind.UNSURE, "without an interval"),
        (ChangeKind.NOT_COMPARABLE, "not comparable"),
    ):
        number = len(delta.of_kind(kind))
        if number:
            counts.append(f"{count_text(number, 'case')} {word}")
    for word, rows in (("new", delta.new), ("gone", delta.gone)):
        if rows:
            counts.append(f"{len(rows):,} {word}")
    return f"Release {delta.name} against {delta.previous}: {', '.join(counts) or 'no case in either'}."


def ratio_text(ratio: Ratio | None) -> str:
    """Return a ratio with its interval: ``1.053 [1.021, 1.086]``; without brackets if it has none, a dash for None."""
    if ratio is None:
        return "-"
    text = f"{ratio.value:.3f}"
    if ratio.low is not None and ratio.high is not None:
        text += f" [{ratio.low:.3f}, {ratio.high:.3f}]"
    return text


def change_text(change: RowChange) -> str:
    """Return the word for a change, with the reason if its ratio has no interval."""
    if change.ratio is not None and change.ratio.why_no_interval:
        return f"{change.kind.value}: {change.ratio.why_no_interval}"
    return change.kind.value
