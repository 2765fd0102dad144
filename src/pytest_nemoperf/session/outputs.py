"""Files at the end of a session: in their folder, or in a temporary one if that takes none."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.errors import os_error_text


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFiles:
    """Files that were written.

    Attributes:
        paths: Their paths.
        problem: Reason that some are not where they belong, with their place; empty if all are.
    """

    paths: tuple[Path, ...]
    problem: str = ""


def write_files(texts: Mapping[str, str], *, folder: Path) -> WrittenFiles:
    """Write files into a folder, and those that it does not take into a new temporary one.

    Args:
        texts: Text by name.
        folder: The folder; it is made if it is missing.
    """
    paths = []
    problem = ""
    lost = {}
    for name, text in texts.items():
        try:
            write_atomically(folder / name, text=text)
        except OSError as exc:
            problem = f"not written: {os_error_text(exc)}"
            lost[name] = text
        else:
            paths.append(folder / name)
    if not lost:
        return WrittenFiles(paths=tuple(paths))
    try:
        elsewhere = Path(tempfile.mkdtemp(prefix="nemoperf-results-"))
        for name, text in lost.items():
            write_atomically(elsewhere / name, text=text)
    except OSError as exc:
        return WrittenFiles(paths=tuple(paths), problem=f"{problem}; nor elsewhere: {os_error_text(exc)}")
    paths += [elsewhere / name for name in lost]
    return WrittenFiles(paths=tuple(paths), problem=f"{problem}; {' and '.join(lost)} went to {elsewhere}")
