"""Stand-in for a pytest process that the tests end in every way: launches and waits."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.launchers.local import LocalLauncher

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell inherit that it is ignored
    kind, run_dir = sys.argv[1], Path(sys.argv[2])
    if kind == "ranks":
        command = RankCommand(argv=("-",), num_processes=2, entrypoint="tests.launchers.programs:hang_deaf_with_child")
    else:
        program = Path(__file__).with_name("programs.py")
        command = RankCommand(argv=(sys.executable, str(program), "deaf"), num_processes=1)
    launcher = LocalLauncher(grace_sec=0.5)
    try:
        launcher.launch(command, run_dir=run_dir, timeout_sec=600, on_poll=lambda: None)
    finally:
        launcher.close()
