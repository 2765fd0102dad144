"""Host lock: perf sessions on one host run one at a time, or they would slow down each other's measurements."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_nemoperf.visible import readable_text

_POLL_SEC = 0.5
_REPORT_INTERVAL_SEC = 60.0


class HostLock:
    """File lock of the whole host, held from a session's first measurement to its end.

    The operating system releases it when the holder dies, even by SIGKILL.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or Path(tempfile.gettempdir()) / "nemoperf-host.lock"
        self._lock = FileLock(self._path, mode=0o666)

    def acquire(self, *, report: Callable[[str], None]) -> None:
        """Wait for the lock; return at once if this session holds it already.

        Args:
            report: Called with a sentence when another session holds the lock, and once a minute while it does.
        """
        if self._lock.is_locked:
            return
        started = time.monotonic()
        next_report = started
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except Timeout:
                if time.monotonic() >= next_report:
                    report(
                        f"waiting for another perf session on this host ({self._holder()}), "
                        f"{time.monotonic() - started:.0f} s so far"
                    )
                    next_report = time.monotonic() + _REPORT_INTERVAL_SEC
                time.sleep(_POLL_SEC)
        with suppress(OSError):
            self._note.write_text(readable_text(f"pid {os.getpid()} in {Path.cwd()}"), encoding="utf-8")

    def release(self) -> None:
        """Release the lock; may be called without holding it."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._note.unlink()
            self._lock.release()

    @property
    def _note(self) -> Path:
        return self._path.with_suffix(".holder")

    def _holder(self) -> str:
        try:
            return self._note.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return "it does not say which"
