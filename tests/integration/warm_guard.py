"""Guard shared by the sessions of these tests: to start one takes a session as long as all the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_nemoperf.launchers.helper import Helper
from pytest_nemoperf.launchers.local import _GUARD
from pytest_nemoperf.process.supervise import Report, Request


class WarmGuard(Helper):
    """Guard that a session can close only while a launch runs; commands get their environment with each request."""

    def __init__(self, *, env: Mapping[str, str], log: Path) -> None:
        super().__init__(_GUARD, env=env, log=log)
        self._is_running = False
        self._is_new_to_session = False
        self._ready: Report | None = None

    @property
    def is_idle(self) -> bool:
        return self._process.poll() is None and self._ready is not None and not self._is_running

    def join_session(self) -> None:
        """Report to the next session that the guard is ready, as a new one would."""
        self._is_new_to_session = True

    def serves(self, env: Mapping[str, str]) -> bool:  # noqa: ARG002 (any environment)
        return self._process.poll() is None

    def send(self, request: Request) -> None:
        self._is_running = True
        super().send(request)

    def receive(self, *, timeout_sec: float) -> Report | None:
        if self._is_new_to_session and self._ready:
            self._is_new_to_session = False
            return self._ready
        report = super().receive(timeout_sec=timeout_sec)
        if report:
            self._is_running = False
            self._ready = self._ready or report
        return report

    def close(self, *, grace_sec: float) -> None:
        if not self.is_idle:
            super().close(grace_sec=grace_sec)

    def end(self) -> None:
        super().close(grace_sec=0.5)


class Guards:
    """Stand-in for the class Helper: the warm guard for commands; a session's own helpers for ranks and A/B sides."""

    def __init__(self) -> None:
        self._guard: WarmGuard | None = None

    def helper(self, module: str, *, env: Mapping[str, str], log: Path, cwd: Path | None = None) -> Helper:
        if module != _GUARD or cwd is not None:  # which files a side's helper uses is looked at
            return Helper(module, env=env, log=log, cwd=cwd)
        if self._guard is None or not self._guard.is_idle:
            self.end()
            self._guard = WarmGuard(env=env, log=log)
        else:
            self._guard.join_session()
        return self._guard

    def end(self) -> None:
        if self._guard:
            self._guard.end()
