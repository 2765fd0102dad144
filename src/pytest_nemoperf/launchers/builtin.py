"""Choice of the launcher of a session's ranks; there is one, for the ranks of one machine."""

from __future__ import annotations

from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import Launcher


def choose_launcher() -> Launcher:
    """Return the launcher that starts a session's ranks."""
    return LocalLauncher()
