"""Published rows that a project keeps beside its baselines, of the form of the shipped ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.pages.releases import PUBLISHED_FOLDER
from pytest_nemoperf.published.row import PublishedRows
from pytest_nemoperf.results.row_problems import printed_problems, published_rows_of
from pytest_nemoperf.schema import read_contract


def own_published(baselines_dir: Path) -> Iterator[PublishedRows]:
    """Yield the published rows of each file of the project.

    Raises:
        BaselineError: If a file can't be trusted.
    """
    for path in sorted((baselines_dir / PUBLISHED_FOLDER).glob("*.json")):
        file = read_contract(PublishedRows, path, error=BaselineError)
        for place, row in published_rows_of(file):
            for problem in printed_problems(row, place=place):
                raise BaselineError(f"{path}: {problem}")
        yield file
