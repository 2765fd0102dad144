"""Archive of a check: summaries, state, and of each stage its log, findings, results and records of runs."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Final

# Traces and compile caches are left where they are: some of them have a hundred megabytes.
MAX_FILE_BYTES: Final = 4 * 2**20
_SUFFIXES = frozenset({".json", ".jsonl", ".log", ".md", ".txt"})


def write_archive(archive: Path, *, folder: Path) -> None:
    """Write the archive, as a whole or not at all."""
    draft = archive.with_name(f"{archive.name}.new")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(draft, "w:gz") as tar:
        for path in sorted(folder.rglob("*")):
            if is_kept(path):
                tar.add(path, arcname=str(Path("gpu-check") / path.relative_to(folder)), recursive=False)
    draft.replace(archive)


def is_kept(path: Path) -> bool:
    """Return whether a file of the check's folder belongs into the archive."""
    return path.suffix in _SUFFIXES and path.is_file() and path.stat().st_size <= MAX_FILE_BYTES
