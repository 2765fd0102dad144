"""Signals that end a session in order, with its measurements reported, in place of ending its process at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Final

import pytest

_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
"""From a scheduler whose time is over, and from a terminal that was closed."""
_SIGNALLED_EXIT: Final = 128  # plus the signal's number, as shells have it


class OrderlyEnd:
    """Handlers that end the pytest session on SIGTERM and SIGHUP, unless somebody else handles or ignores these.

    Attributes:
        exit_code: 128 and the number of the signal that ended the session; 0 if none did.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self._process = os.getpid()
        self._replaced: list[signal.Signals] = []

    def begin(self) -> None:
        """Take the signals that have no handler."""
        if threading.current_thread() is not threading.main_thread():  # others can't handle signals
            return
        for signum in _SIGNALS:
            if signal.getsignal(signum) is signal.SIG_DFL:
                signal.signal(signum, self._end)
                self._replaced.append(signum)

    def close(self) -> None:
        """Give the signals back, but those that somebody else has taken meanwhile."""
        for signum in self._replaced:
            if signal.getsignal(signum) == self._end:
                signal.signal(signum, signal.SIG_DFL)
        self._replaced.clear()

    def _end(self, signum: int, _frame: FrameType | None) -> None:
        """End the session at the first signal; further ones must not cut off the clean-up, which SIGKILL still can.

        Raises:
            pytest.exit.Exception: Without an exit code of its own, with which pytest would print no summary.
        """
        if os.getpid() != self._process:  # a fork, as of a data loader: it ends as it would without this
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif not self.exit_code:
            self.exit_code = _SIGNALLED_EXIT + signum
            pytest.exit(signal.Signals(signum).name)
