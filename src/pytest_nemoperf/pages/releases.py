"""Files of releases: ``baselines/releases/<release>.json``, checked when read, written atomically."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.baselines.files import locked_folder
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.results.row import Release, Row
from pytest_nemoperf.results.row_problems import release_problems
from pytest_nemoperf.schema import read_contract

RELEASES_FOLDER: Final = "releases"
"""Folder of the releases' files, in the folder of the baselines."""
PUBLISHED_FOLDER: Final = "published"
"""Folder of published rows, one file a system, in the folder of the baselines."""
NO_SYSTEMS: Final = frozenset({RELEASES_FOLDER, PUBLISHED_FOLDER})
"""Folders beside those of the systems' baselines."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_MAX_NAME_LENGTH: Final = 64


def check_release_name(name: str) -> None:
    """Check that the name of a release is that of a file on any machine.

    Raises:
        BaselineError: If it is not.
    """
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME_LENGTH or name.endswith("."):
        raise BaselineError(
            f"release {name!r}: its name is that of its file, so it has at most {_MAX_NAME_LENGTH} letters, digits, "
            "and ._+- between them, and begins with a letter or digit; write e.g. 0.4 or 26.02-rc1"
        )


def stored_systems(baselines_dir: Path) -> list[str]:
    """Return the names of the systems that have a file of a baseline in a folder, sorted."""
    return sorted({path.parent.name for path in baselines_dir.glob("*/*.json")} - NO_SYSTEMS)


def release_path(baselines_dir: Path, *, name: str) -> Path:
    """Return the file of a release."""
    return baselines_dir / RELEASES_FOLDER / f"{name}.json"


def read_release(path: Path) -> Release:
    """Read and check the file of a release.

    Raises:
        BaselineError: If it can't be read, breaks the schema, is named as another release, or holds a figure that
            can't have been measured.
    """
    release = read_contract(Release, path, error=BaselineError, corrupt_hint="restore it")
    if release.name != path.stem:
        raise BaselineError(f"{path}: holds release {release.name!r}; file and release must have the same name")
    for problem in release_problems(release):
        raise BaselineError(f"{path}: {problem}; restore it (git checkout)")
    return release


def list_releases(baselines_dir: Path) -> list[Release]:
    """Return all releases of a folder of baselines, the newest last.

    A release comes after the one that it names as its previous one; of others the day counts, then the name.

    Raises:
        BaselineError: If one of them can't be trusted.
    """
    folder = baselines_dir / RELEASES_FOLDER
    if folder.exists() and not folder.is_dir():
        raise BaselineError(f"{folder}: is no folder; move it, for it is the place of <release>.json")
    found = []
    for path in sorted(folder.glob("*.json")):
        found.append(read_release(path))
    return in_order(found)


def in_order(releases: Iterable[Release]) -> list[Release]:
    """Return releases in their order, the newest last."""
    left = sorted(releases, key=lambda release: (release.date, release.name))
    names = {release.name for release in left}
    ordered: list[Release] = []
    while left:
        done = {release.name for release in ordered}
        following = left[0]  # a circle of previous ones is cut at the oldest
        for release in left:
            if release.previous not in names or release.previous in done:
                following = release
                break
        ordered.append(following)
        left.remove(following)
    return ordered


def frozen(rows: Sequence[Row], *, name: str, date: str, previous: str) -> Release:
    """Return rows as a release: by system and case, each marked with its name.

    Args:
        rows: The rows.
        name: Name of the release.
        date: Day it is made, ISO 8601.
        previous: Release before it; empty for the first one.

    Raises:
        BaselineError: If a case is there twice, or a figure can't have been measured.
    """
    marked = []
    for row in sorted(rows, key=lambda each: (each.system, each.case)):
        marked.append(replace(row, origin=replace(row.origin, release=name)))
    release = Release(name=name, date=date, rows=tuple(marked), previous=previous)
    for problem in release_problems(release):
        raise BaselineError(f"release {name}: {problem}; nothing is written")
    return release


def write_release(path: Path, *, release: Release, is_replaced: bool = False) -> None:
    """Write the file of a release; on any error the old one stays.

    The file is written aside and renamed, so that no reader, full disk or interrupt leaves half of it; a lock keeps
    two releases from being written at once.

    Args:
        path: The file.
        release: The release.
        is_replaced: An older file of that name may be replaced.

    Raises:
        BaselineError: If it can't be written, or is there and may not be replaced.
    """
    text = to_json(release)
    try:
        with locked_folder(path.parent.parent, path=path) as aside_name:
            if not is_replaced and path.exists():
                raise BaselineError(f"{path}: release {release.name} is there already, and a release does not change")
            write_atomically(path, text=text, aside_name=aside_name)
    except OSError as exc:
        raise BaselineError(
            f"{path}: cannot be written: {exc.strerror or exc}; what was stored before is untouched"
        ) from exc
