"""Files of releases: ``baselines/releases/<release>.json``, checked when read, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.results.row import Release
from pytest_nemoperf.schema import read_contract

RELEASES_FOLDER: Final = "releases"
"""Folder of the releases' files, in the folder of the baselines."""


def release_path(baselines_dir: Path, *, name: str) -> Path:
    """Return the file of a release."""
    return baselines_dir / RELEASES_FOLDER / f"{name}.json"


def read_release(path: Path) -> Release:
    """Read and check the file of a release.

    Raises:
        BaselineError: If it can't be read, breaks the schema, or is named as another release.
    """
    release = read_contract(Release, path, name="release", error=BaselineError, corrupt_hint="restore it")
    if release.name != path.stem:
        raise BaselineError(f"{path}: holds release {release.name!r}; file and release must have the same name")
    return release


def write_release(path: Path, *, release: Release) -> None:
    """Write the file of a release; on any error the old one stays.

    Raises:
        OSError: If it can't be written.
    """
    write_atomically(path, text=to_json(release))
