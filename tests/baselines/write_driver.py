"""Updates a stored baseline in processes that end badly; tests start it.

``python -m tests.baselines.write_driver COMMAND ROOT``: ``kill`` and ``interrupt`` let a fork die before each call
that changes files, and print these calls; ``full`` and ``denied`` write to a full disk and a folder without
permission; ``update`` stores a baseline of each rate that follows.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_nemoperf.baselines.files import read_baseline, write_baseline
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import to_json
from tests.builders import make_baseline

_CHANGING = frozenset(
    {"open", "write", "flush", "fsync", "close", "__exit__", "flock", "mkdir", "unlink", "rename", "replace"}
)
"""Calls that may change files."""
_OLD, _NEW, _NEXT = 1000.0, 900.0, 800.0


class Interrupter:
    """A profiler that ends the process, or interrupts it, before the n-th call that changes files."""

    def __init__(self, end_at: int, *, end: Callable[[], None]) -> None:
        self.calls: list[str] = []
        self._end_at = end_at
        self._end = end

    def __call__(self, _frame: object, event: str, called: Any) -> None:
        if event == "c_call" and called.__name__ in _CHANGING and is_of_system(called):
            self.calls.append(called.__name__)
            if len(self.calls) == self._end_at:
                sys.setprofile(None)
                self._end()


def is_of_system(called: Any) -> bool:
    """Return whether a call is of a file or of the system, not of a string or lock by the same name."""
    owner = called.__self__
    return isinstance(owner, io.IOBase) or getattr(owner, "__name__", "") in {"posix", "io", "_io", "fcntl"}


def update(root: Path, rate: float) -> None:
    write_baseline(root, baseline=make_baseline((rate,)))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def in_fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def rate_in(folder: Path) -> float:
    (path,) = folder.glob("*.json")
    return read_baseline(path).runs[0].metrics["tokens_per_sec_per_gpu"]


def end_everywhere(root: Path, *, end: Callable[[], None], status: int) -> list[str]:
    """Let an update end around each call in turn; the stored file must be whole and take the next update."""
    update(root, _OLD)
    update(root, _OLD)  # reads the file, for which schemas are loaded once
    counter = Interrupter(0, end=end)
    sys.setprofile(counter)
    update(root, _OLD)
    sys.setprofile(None)
    for number in range(1, len(counter.calls) + 1):
        update(root, _OLD)

        def work(number: int = number) -> None:
            sys.setprofile(Interrupter(number, end=end))
            update(root, _NEW)

        ended = in_fork(work)
        assert ended == status, f"call {number} ({counter.calls[number - 1]}): {ended}"
        assert rate_in(root / "cpu") in {_OLD, _NEW}, f"call {number}"
        assert len(list((root / "cpu").iterdir())) <= 2, f"call {number} left more than one file aside"
        update(root, _NEXT)
        assert rate_in(root / "cpu") == _NEXT
        assert len(list((root / "cpu").iterdir())) == 1, f"call {number}: the file left aside is still there"
    return counter.calls


def fill_disk(root: Path) -> None:
    """Update with a file size limit that takes fewer and fewer bytes of the new file."""
    for limit in range(len(to_json(make_baseline((_NEW,)))) - 1, -1, -97):

        def work(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            report(root, _NEW)

        assert in_fork(work) == 0
        assert rate_in(root / "cpu") == _OLD
        assert len(list((root / "cpu").iterdir())) == 1


def deny(root: Path) -> None:
    """Update in a folder without permission to write; as root, switch to another user first."""
    rate_in(root / "cpu")  # loads schemas that another user may not be able to read
    Path(tempfile.gettempdir()).chmod(0o777)
    (root / "cpu").chmod(0o555)
    if os.geteuid() == 0:
        os.seteuid(65534)
    report(root, _NEW)


def report(root: Path, rate: float) -> None:
    try:
        update(root, rate)
    except BaselineError as exc:
        print(exc, flush=True)


def main(command: str, folder: str, *rates: str) -> None:
    root = Path(folder)
    match command:
        case "kill":
            print(*end_everywhere(root, end=die, status=-signal.SIGKILL))
        case "interrupt":
            print(*end_everywhere(root, end=interrupt, status=130))
        case "full":
            fill_disk(root)
        case "denied":
            deny(root)
        case "update":
            for rate in rates:
                update(root, float(rate))


if __name__ == "__main__":
    main(*sys.argv[1:])
