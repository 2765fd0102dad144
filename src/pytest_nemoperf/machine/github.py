"""Detection of GitHub Actions, and paths as it shows them."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_nemoperf.machine.git import find_repository


def is_github() -> bool:
    """Return whether this process runs in a step of GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS", "").lower() not in {"", "0", "false"}


def repository_path(path: Path) -> str:
    """Return a path as GitHub shows files: relative to the root of the repository that holds it."""
    path = path.absolute()
    root = find_repository(path.parent)
    return str(path) if root is None else path.relative_to(root).as_posix()
