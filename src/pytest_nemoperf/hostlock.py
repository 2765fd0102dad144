"""Perf sessions on one host take turns: two at once would measure each other."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_POLL_SEC = 0.5
_SAY_AGAIN_SEC = 60.0


class HostLock:
    """A lock of the whole host, held from a session's first measurement to its end.

    The operating system gives it up when its holder dies, however that happens.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(tempfile.gettempdir()) / "nemoperf-host.lock"
        self._lock = FileLock(self._path, mode=0o666)

    def acquire(self, *, say: Callable[[str], None]) -> None:
        """Wait for this session's turn; returns at once if it has it already.

        Args:
            say: Called with a sentence when there is somebody to wait for, and once a minute while it lasts.
        """
        if self._lock.is_locked:
            return
        started = time.monotonic()
        next_word = started
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except Timeout:
                if time.monotonic() >= next_word:
                    say(
                        f"waiting for another perf session on this host ({self._holder()}), "
                        f"{time.monotonic() - started:.0f} s so far"
                    )
                    next_word = time.monotonic() + _SAY_AGAIN_SEC
                time.sleep(_POLL_SEC)
        with suppress(OSError):
            self._note.write_text(f"pid {os.getpid()} in {Path.cwd()}", encoding="utf-8")

    def release(self) -> None:
        """Let the next session begin; may be called without holding the lock."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._note.unlink()
            self._lock.release()

    @property
    def _note(self) -> Path:
        return self._path.with_suffix(".holder")

    def _holder(self) -> str:
        try:
            return self._note.read_text(encoding="utf-8")
        except OSError:
            return "it does not say which"
