"""Launcher's side of a helper process (the warm server or the guard)."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from pytest_nemoperf.errors import LaunchError
from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.launchers.logs import tail_of
from pytest_nemoperf.process.orphans import is_alive
from pytest_nemoperf.process.supervise import Report, Request, is_readable, request_line

_COOKIE = "NEMOPERF_HELPER"
_VOLATILE = ("NEMOPERF_", "PYTEST_")
_STOP_MARGIN_SEC = 5.0
_KILL_LIMIT_SEC = 10.0
_POLL_SEC = 0.02


class Helper:
    """Helper process in a session of its own; it ends when its input closes or this process dies.

    The thread that creates it must live as long: the kernel reports the end of that thread as the parent's death.

    Args:
        module: Module to run.
        env: Whole environment.
        log: File for the helper's standard error.
        cwd: Working directory; None for this process's own.
    """

    def __init__(self, module: str, *, env: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        self._cookie = secrets.token_hex(16)
        self._module = module
        self._env = _lasting(env)
        self._buffer = b""
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-m", module, str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                bufsize=0,
                env={**env, _COOKIE: self._cookie},
                cwd=cwd,
                start_new_session=True,
            )

    def serves(self, env: Mapping[str, str]) -> bool:
        """Return whether the helper is alive and was started with this environment, which libraries read at import."""
        return self._process.poll() is None and self._env == _lasting(env)

    def send(self, request: Request) -> None:
        """Write a request; receive reports a helper that is dead."""
        marked = replace(request, env={**request.env, _COOKIE: self._cookie})
        stdin = self._process.stdin
        with suppress(BrokenPipeError):
            if stdin:
                stdin.write(request_line(marked))

    def receive(self, *, timeout_sec: float) -> Report | None:
        """Return the next report, or None on a time-out.

        Raises:
            LaunchError: If the helper is dead.
        """
        stdout = self._process.stdout
        while b"\n" not in self._buffer:
            if stdout is None or not is_readable(stdout.fileno(), timeout_sec=timeout_sec):
                return None
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                raise LaunchError(self._death_message())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return from_json(Report, line, subject=self._module)

    def processes(self) -> list[psutil.Process]:
        """Return the helper and its descendants that still run."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def close(self, *, grace_sec: float) -> None:
        """End the helper and all its descendants; may be called twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            # The closed pipe is noticed only between requests; while the helper imports torch, only the signal is.
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2 * grace_sec + _STOP_MARGIN_SEC)
        finally:
            self._kill_leftovers()

    def _kill_leftovers(self) -> None:
        """Kill a helper that did not end with 0, and all processes that it has left."""
        if self._process.poll() == 0:
            return
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + _KILL_LIMIT_SEC
        dying: set[psutil.Process] = set()
        while time.monotonic() < deadline:
            for process in _with_cookie(self._cookie):
                dying.add(process)
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    process.kill()
            # A dying process has lost its environment, but may still hold a device or a port.
            if not any(is_alive(process) for process in dying):
                return
            time.sleep(_POLL_SEC)

    def _death_message(self) -> str:
        code = self._process.wait()
        cause = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return f"the helper process {self._module} {cause}; its log {self.log} ends with:\n{tail_of(self.log)}"


def _lasting(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that differ in each launch."""
    return {name: value for name, value in env.items() if not name.startswith(_VOLATILE)}


def _with_cookie(cookie: str) -> list[psutil.Process]:
    """Return the living processes that inherited the cookie, including those with another parent or session."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(_COOKIE) == cookie and is_alive(process):
                processes.append(process)
    return processes
