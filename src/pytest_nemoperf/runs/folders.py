"""Working folders of sessions: made on first use, locked while their session lives, the oldest deleted."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_LOCK = ".lock"
_NUMBER = ".number"
_TIMEOUT_SEC = 10.0
_NAME = re.compile(r"(\d{8}-\d{6})(?:-(\d+))?")


class SessionFolder:
    """The working folder of one session, named by the time.

    The session holds a lock in it. The operating system releases the lock when the session dies, even by SIGKILL, so
    that other sessions can tell abandoned folders from those in use. Folders are ordered by a number in them and not by
    their time, since a clock may be set back.

    Args:
        root: Directory of all sessions' folders.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path: Path | None = None
        self._lock: FileLock | None = None

    @property
    def path(self) -> Path:
        """The folder; it is made when it is first asked for."""
        if self._path is None:
            self._root.mkdir(parents=True, exist_ok=True)
            # Without this lock another session could delete a folder that is made, but not locked yet.
            with _others_locked_out(self._root):
                number = 1 + max(map(_number, _session_folders(self._root)), default=0)
                path = _make_folder(self._root)
                (path / _NUMBER).write_text(f"{number}\n", encoding="ascii")
                lock = FileLock(path / _LOCK)
                with suppress(NotImplementedError):  # a file system without locks
                    lock.acquire(timeout=0)
            # Set only now: a folder without number and lock, as after a full disk, must not be used.
            self._path = path
            self._lock = lock
        return self._path

    def delete_old(self, *, keep: int) -> None:
        """Delete the folders of all but the newest sessions.

        Folders of this session, of sessions that still run, and with any other kind of name stay.
        """
        if not self._root.is_dir():
            return
        with _others_locked_out(self._root):
            old = sorted(_session_folders(self._root), key=_age)[:-keep]
            left = [folder for folder in old if folder != self._path and not _is_in_use(folder)]
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)

    def release(self) -> None:
        """Release the lock, so that a later session may delete the folder; may be called twice."""
        if self._lock is not None:
            self._lock.release()


@contextmanager
def _others_locked_out(root: Path) -> Iterator[None]:
    """Keep other sessions from making and deleting folders while the block runs, if the file system has locks."""
    lock = FileLock(root.with_suffix(_LOCK))
    with suppress(Timeout, NotImplementedError):
        lock.acquire(timeout=_TIMEOUT_SEC)
    try:
        yield
    finally:
        lock.release()


def _make_folder(root: Path) -> Path:
    """Make a folder that no other session has: two may start within the same second."""
    name = time.strftime("%Y%m%d-%H%M%S")
    folder = root / name
    for number in itertools.count(2):
        try:
            folder.mkdir()
            break
        except FileExistsError:
            folder = root / f"{name}-{number}"
    return folder


def _session_folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]


def _age(folder: Path) -> tuple[int, str, int]:
    """Return the sort key of a folder, the oldest first: its number (0 if an older version made it), then its name."""
    day = folder.name
    again = 1
    match = _NAME.fullmatch(folder.name)
    if match:
        day = match[1]
        again = int(match[2] or 1)
    return _number(folder), day, again


def _number(folder: Path) -> int:
    try:
        return int((folder / _NUMBER).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _is_in_use(folder: Path) -> bool:
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):  # OSError: another user's folder, maybe of a running session
        return True
    except NotImplementedError:  # a file system without locks
        return False
    lock.release()
    return False
