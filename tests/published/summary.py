"""Tables of docs/published.md: rows by system, source and reason.

``python -m tests.published.summary`` writes them into the page; tests/published/test_docs.py holds it to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.published.contradictions import ContradictionKind, find_contradictions
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.recipes import unpriced_recipe_of
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import SYSTEMS, all_rows

PAGE: Final = Path(__file__).parents[2] / "docs" / "published.md"
MARKS: Final = ("<!-- published rows -->\n", "<!-- end -->")
_DEGREES: Final = "its degrees or its batch don't fit together"
_NO_MODEL: Final = "its model is not in the catalog"


def tables() -> str:
    """Return the page's tables in Markdown."""
    return "\n\n".join([_by_system(), _by_source(), _by_contradiction(), _by_recipe_reason()]) + "\n"


def _by_system() -> str:
    lines = [["System", "Rows", "Baselines", "Recipes", "Both", "Drafts with a recipe", "Neither"]]
    totals = [0] * 6
    for system in SYSTEMS:
        shipped = published_rows(system)
        kept = {row.id for row in shipped.rows}
        rows = [*shipped.rows, *(each.row for each in shipped.excluded)]
        runnable = {row.id for row in rows if unpriced_recipe_of(row).recipe is not None}
        drafts = {row.id for row in rows if row.is_draft} & runnable
        recipes = (runnable & kept) | drafts
        counts = [len(rows), len(kept), len(recipes), len(kept & recipes), len(drafts), len(rows) - len(kept | recipes)]
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        lines.append([find_system(system).title, *map(str, counts)])
    lines.append(["all", *map(str, totals)])
    return _table(lines)


def _by_source() -> str:
    shipped: Counter[tuple[str, str]] = Counter()
    kept: Counter[tuple[str, str]] = Counter()
    for row in all_rows():
        shipped[row.source, row.release] += 1
    for system in SYSTEMS:
        for row in published_rows(system).rows:
            kept[row.source, row.release] += 1
    lines = [["Source", "Release", "Rows", "Baselines"]]
    for source, release in sorted(shipped):
        lines.append([source, release, str(shipped[source, release]), str(kept[source, release])])
    return _table(lines)


def _by_contradiction() -> str:
    found = find_contradictions(all_rows())
    lines = [["Kept out because of", "Rows", "For example"]]
    for kind in ContradictionKind:
        of_kind = [(row_id, each.reason) for row_id, each in found.items() if each.kind is kind]
        if of_kind:
            row_id, reason = min(of_kind)
            lines.append([kind, str(len(of_kind)), f"{row_id}: {reason}"])
    return _table(lines)


def _by_recipe_reason() -> str:
    counts: Counter[str] = Counter()
    for system in SYSTEMS:
        for row in published_rows(system).rows:
            reason = unpriced_recipe_of(row).reason
            if reason:
                counts[_reason_of(row, reason=reason)] += 1
    lines = [["A baseline without a recipe, for", "Rows"]]
    for reason, count in counts.most_common():
        lines.append([reason, str(count)])
    return _table(lines)


def _reason_of(row: PublishedRow, *, reason: str) -> str:
    try:
        find_published_model(row.model)
    except RecipeError:
        return _NO_MODEL
    if " does not divide " in reason or " is not a multiple of " in reason:
        return _DEGREES
    return reason


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rest = lines
    text = [f"| {' | '.join(head)} |", f"|{'|'.join(' --- ' for _ in head)}|"]
    for line in rest:
        text.append(f"| {' | '.join(line)} |")
    return "\n".join(text)


def main() -> None:
    """Write the tables into the page."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    PAGE.write_text(f"{before}{MARKS[0]}{tables()}{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
