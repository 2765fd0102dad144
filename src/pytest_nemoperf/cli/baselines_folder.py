"""Folder of stored baselines that a command is given."""

from __future__ import annotations

from pathlib import Path

from pytest_nemoperf.baselines.store import DEFAULT_FOLDER
from pytest_nemoperf.errors import BaselineError


def baselines_dir(named: Path | None, *, is_made: bool = False) -> Path:
    """Return the folder of baselines: the named one, or the default, which need not exist.

    Args:
        named: Value of ``--baselines``.
        is_made: The folder will be made if it is missing.

    Raises:
        BaselineError: If the named one is no folder, or does not exist and is not made.
    """
    if named is None:
        return Path(DEFAULT_FOLDER)
    if named.exists() and not named.is_dir():
        raise BaselineError(f"--baselines={named}: is no folder; give the one that holds <system>/<case>.json")
    if not is_made and not named.is_dir():
        raise BaselineError(f"--baselines={named}: no such folder; give the one that holds <system>/<case>.json")
    return named
