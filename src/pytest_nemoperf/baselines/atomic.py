"""Files written aside and renamed into place, so that no reader, full disk or interrupt leaves half of one."""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, *, text: str, aside_name: str = "") -> None:
    """Write a file aside, then rename it into place; on any error the old file stays.

    A symbolic link stays; the file that it leads to is written, there or not.

    Args:
        path: The file.
        text: The new content.
        aside_name: Name of a file in the same folder that only this process writes; an existing one is overwritten.
            Empty for a random name; such a file stays behind if the process is killed.

    Raises:
        OSError: If the folder or the disk refuses it, or links lead in a circle; it has the path of the file.
    """
    path = Path(os.path.realpath(path))  # not resolve, which raises no OSError for a circle
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(aside_name or f".{path.stem[:40]}-{secrets.token_hex(4)}.tmp")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException as exc:
        with suppress(OSError):
            aside.unlink()
        if isinstance(exc, OSError):  # without a path, as of a full disk, or with that of the file aside
            raise OSError(exc.errno, exc.strerror or str(exc), str(path)) from exc
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a renaming to the disk, so that it survives a power cut, on file systems that can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
