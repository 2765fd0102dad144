"""Published rows for tests: every one that the package ships, those that are no baselines included."""

from __future__ import annotations

from typing import Final

from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.row import PublishedRow

SYSTEMS: Final = ("h100", "h200", "b200", "b300", "gb200", "gb300")


def all_rows() -> list[PublishedRow]:
    """Return the rows of all systems by id."""
    rows = []
    for system in SYSTEMS:
        shipped = published_rows(system)
        rows += [*shipped.rows, *(excluded.row for excluded in shipped.excluded)]
    return sorted(rows, key=lambda row: row.id)


def pretraining_rows() -> list[PublishedRow]:
    """Return the rows of pre-training and fine-tuning."""
    return [row for row in all_rows() if row.rollouts is None]


def rl_rows() -> list[PublishedRow]:
    """Return the rows of reinforcement learning."""
    return [row for row in all_rows() if row.rollouts is not None]
