"""Public repositories whose recipe files are read: their files at one commit, from clones or the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.public_files import MIRRORS_VARIABLE

FRAMEWORKS: Final = ("nemo_rl", "automodel", "megatron_lm", "megatron_bridge")
_FETCH_LIMIT_SEC: Final = 600.0
_DEPTH: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Recipe files of a framework.

    Attributes:
        framework: Its name here.
        repository: ``owner/name`` on GitHub.
        commit: Commit that the files are read at.
        folders: Parts of the repository that hold recipes, and files that they need.
        recipes: Manifest: files by path and blob, and the values that a person reads in them.
    """

    framework: str
    repository: str
    commit: str
    folders: tuple[str, ...]
    recipes: tuple[Mapping[str, Any], ...]


@cache
def source_of(framework: str) -> Source:
    """Return the manifest of a framework."""
    text = Path(__file__).with_name(f"{framework}.json").read_text(encoding="utf-8")
    data = json.loads(text)
    return Source(
        framework=framework,
        repository=data["repository"],
        commit=data["commit"],
        folders=tuple(data["folders"]),
        recipes=tuple(data["recipes"]),
    )


def check_out(source: Source, *, root: Path) -> Path:
    """Write a source's files to a folder, and return it; without a clone or a network that has them, fail in words."""
    folder = root / source.framework
    if not folder.exists():
        directory = _find_clone(source) or _fetched(source, root=root)
        folder.mkdir()
        command = ["git", "--git-dir", str(directory), "archive", source.commit, *source.folders]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as archive:
            subprocess.run(["tar", "-x", "-C", str(folder)], stdin=archive.stdout, check=True)
        assert archive.returncode == 0
    return folder


def _find_clone(source: Source) -> Path | None:
    """Return the git directory that has the commit, among those that the variable names or that lie in its folders."""
    for place in filter(None, os.environ.get(MIRRORS_VARIABLE, "").split(os.pathsep)):
        for directory in _git_directories(Path(place), depth=_DEPTH):
            command = ["git", "--git-dir", str(directory), "cat-file", "-e", f"{source.commit}^{{tree}}"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return directory
    return None


def _git_directories(place: Path, *, depth: int) -> Iterator[Path]:
    if (place / "HEAD").is_file():
        yield place
    elif (place / ".git").is_dir():
        yield place / ".git"
    elif depth and place.is_dir():
        for inner in sorted(place.iterdir()):
            yield from _git_directories(inner, depth=depth - 1)


def _fetched(source: Source, *, root: Path) -> Path:
    url = f"https://github.com/{source.repository}"
    directory = root / f"{source.framework}.git"
    subprocess.run(["git", "init", "-q", "--bare", str(directory)], check=True)
    command = ["git", "--git-dir", str(directory), "fetch", "-q", "--depth=1", url, source.commit]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FETCH_LIMIT_SEC, check=False)
        reason = done.stderr.strip()
    except subprocess.TimeoutExpired:
        reason = f"not within {_FETCH_LIMIT_SEC:.0f} s"
        done = None
    if done is None or done.returncode != 0:
        shutil.rmtree(directory)
        pytest.fail(
            f"{source.repository} at {source.commit} is not to be had: no clone in {MIRRORS_VARIABLE}="
            f"{os.environ.get(MIRRORS_VARIABLE, '')!r} has it, and {url}: {reason}; name clones of it, or folders of "
            f"them, in {MIRRORS_VARIABLE}, separated as in PATH",
            pytrace=False,
        )
    return directory
