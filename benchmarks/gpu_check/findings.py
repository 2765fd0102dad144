"""Findings of a stage: tables, remarks and problems, as its program leaves them and the summary shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytest_nemoperf.json_codec import read_data, to_json

FINDINGS_FILE = "findings.json"


@dataclass(kw_only=True)
class Table:
    """Table of texts.

    Attributes:
        title: Subject of the table, with units.
        columns: Heads of the columns.
        rows: Cells by row.
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Append a row."""
        self.rows.append(list(cells))

    def markdown(self) -> str:
        """Return the table as Markdown, its title above it."""
        lines = [self.title, "", _line(self.columns), _line(["---"] * len(self.columns))]
        lines.extend(map(_line, self.rows))
        return "\n".join(lines)


@dataclass(kw_only=True)
class Findings:
    """Findings of one stage, in the order they were made.

    Attributes:
        tables: Figures.
        remarks: Sentences that are no problem.
        problems: Sentences on what is not as it should be; any of them fails the stage.
        unjudged: Sentences on what ran and could not be judged, as on a busy machine; without problems the stage is
            then neither passed nor failed.
    """

    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)

    def table(self, title: str, columns: Sequence[str]) -> Table:
        """Begin a table."""
        table = Table(title=title, columns=list(columns))
        self.tables.append(table)
        return table

    def write(self, folder: Path) -> None:
        """Write the findings into a stage's folder."""
        (folder / FINDINGS_FILE).write_text(to_json(self), encoding="utf-8")


def read_findings(folder: Path) -> Findings:
    """Return the findings in a stage's folder; empty if its program left none."""
    path = folder / FINDINGS_FILE
    if not path.exists():
        return Findings()
    return read_data(Findings, path)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
