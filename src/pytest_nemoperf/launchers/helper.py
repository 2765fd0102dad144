"""The launcher's end of a helper process (the warm server or the guard)."""

from __future__ import annotations

import os
import secrets
import select
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
from pytest_nemoperf.jsontext import from_json, to_json_line
from pytest_nemoperf.launchers.logs import tail_of
from pytest_nemoperf.native.orphans import is_alive
from pytest_nemoperf.native.supervise import Report, Request

_COOKIE = "NEMOPERF_HELPER"
_VOLATILE = ("NEMOPERF_", "PYTEST_")
_STOP_MARGIN_SEC = 5.0
_KILL_LIMIT_SEC = 10.0
_POLL_SEC = 0.02


class Helper:
    """One helper process, in a session of its own; it ends when its input closes or this process dies.

    The thread that makes it must outlive it: the kernel takes that thread's end for the parent's death.
    """

    def __init__(self, module: str, *, env: Mapping[str, str], log: Path, cwd: Path | None = None) -> None:
        self._cookie = secrets.token_hex(16)
        self._module = module
        self._env = lasting(env)
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
        """Return whether it lives and has that environment: libraries read their variables when imported."""
        return self._process.poll() is None and self._env == lasting(env)

    def send(self, request: Request) -> None:
        """Write a request; a helper that is dead is noticed by receive."""
        marked = replace(request, env={**request.env, _COOKIE: self._cookie})
        stdin = self._process.stdin
        with suppress(BrokenPipeError):
            if stdin:
                stdin.write(to_json_line(marked).encode())

    def receive(self, *, timeout_sec: float) -> Report | None:
        """Return the next report, or None after the time given.

        Raises:
            LaunchError: If the helper is dead.
        """
        stdout = self._process.stdout
        while b"\n" not in self._buffer:
            if stdout is None or not select.select([stdout], [], [], timeout_sec)[0]:
                return None
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                raise LaunchError(self._how_it_died())
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return from_json(Report, line, subject=self._module)

    def processes(self) -> list[psutil.Process]:
        """Return it and everything it started that still runs."""
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def close(self, *, grace_sec: float) -> None:
        """End it and everything it started; may be called twice."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            # It notices the closed pipe only between requests; while it imports torch, only the signal.
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=2 * grace_sec + _STOP_MARGIN_SEC)
        finally:
            self._make_sure()

    def _make_sure(self) -> None:
        """Kill what a helper that did not end in order has left."""
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
            # A dying process has no environment any more, but may hold a device or a port still.
            if not any(is_alive(process) for process in dying):
                return
            time.sleep(_POLL_SEC)

    def _how_it_died(self) -> str:
        code = self._process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        tail = tail_of(self.log)
        return f"the helper process {self._module} {how}; its log {self.log} ends with:\n{tail}"


def lasting(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that don't change from launch to launch by themselves."""
    return {name: value for name, value in env.items() if not name.startswith(_VOLATILE)}


def _with_cookie(cookie: str) -> list[psutil.Process]:
    """Return the living processes that inherited the cookie, whoever their parent and session are now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get(_COOKIE) == cookie and is_alive(process):
                found.append(process)
    return found
