"""Checkout of a framework that a recipe file lies in."""

from __future__ import annotations

from pathlib import Path


def find_checkout(config: Path, *, marker: str) -> Path | None:
    """Return the checkout that a recipe file lies in, else the working directory's, else None.

    Args:
        config: The file.
        marker: File by which a checkout is known, from its root.
    """
    for start in (config.resolve().parent, Path.cwd()):
        for folder in (start, *start.parents):
            if (folder / marker).is_file():
                return folder
    return None
