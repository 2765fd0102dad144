"""Signals that end a session in order, with its measurements reported, in place of ending its process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import pytest

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
"""From a scheduler whose time is over, and from a terminal that was closed."""
_SIGNALLED_EXIT: Final = 128  # plus the signal's number, as shells have it


@contextmanager
def orderly_end() -> Iterator[None]:
    """End the pytest session on SIGTERM and SIGHUP while the block runs, unless somebody else handles or ignores them.

    Raises:
        pytest.exit.Exception: At such a signal; pytest exits with 128 and its number.
    """
    replaced = []
    if threading.current_thread() is threading.main_thread():  # others can't handle signals
        replaced = [signum for signum in _SIGNALS if signal.getsignal(signum) is signal.SIG_DFL]
    for signum in replaced:
        signal.signal(signum, _end)
    try:
        yield
    finally:
        for signum in replaced:
            signal.signal(signum, signal.SIG_DFL)


def _end(signum: int, _frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second one must not cut off the clean-up; SIGKILL still can
    pytest.exit(signal.Signals(signum).name, returncode=_SIGNALLED_EXIT + signum)
