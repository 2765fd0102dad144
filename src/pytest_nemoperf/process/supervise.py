"""Helper process: starts processes for the launcher, watches them, and leaves none behind.

The launcher writes one JSON line a request to standard input and reads one JSON line a report from standard output.
A closed input means that the launcher has ended; then all processes are ended. This module imports no torch.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pytest_nemoperf.json_codec import from_data, parse_json, to_data, to_json_line
from pytest_nemoperf.process.orphans import adopt_orphans, die_with_parent, end_descendants, reap_adopted

_POLL_SEC = 0.05
_FIRST_POLL_SEC = 0.001
_POLL_SHARE = 0.1
"""Share of a launch's time by which its end may be noticed late, up to the usual poll."""
SETTLE_SEC = 0.5
"""Time after a failure in which other processes may still fail: the failure seen first need not be the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Request of the launcher.

    Attributes:
        action: ``launch``, or ``stop`` the launch.
        argv: Command of one process.
        entrypoint: ``package.module:function`` to call instead, if the helper can.
        env: Whole environment without RANK and LOCAL_RANK.
        is_rank: Each process gets these two.
        cwd: Working directory.
        logs: File for each process's output, by rank.
        run_dir: Working files of the run.
        grace_sec: Between SIGTERM and SIGKILL.
    """

    action: Literal["launch", "stop"]
    argv: tuple[str, ...] = ()
    entrypoint: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    is_rank: bool = True
    cwd: str = ""
    logs: tuple[str, ...] = ()
    run_dir: str = ""
    grace_sec: float = 0.0

    def rank_env(self, rank: int) -> dict[str, str]:
        """Return the environment of the process with this number."""
        if not self.is_rank:
            return dict(self.env)
        return {**self.env, "RANK": str(rank), "LOCAL_RANK": str(rank)}


def request_line(request: Request) -> bytes:
    """Return a request as a line for the helper; see request_of.

    Its texts are arguments, paths and variables, whose bytes count. They go as they are, a character for a byte: the
    helper may have another encoding, and no encoding at all has every path.
    """
    return to_json_line(_mapped(to_data(request), _characters_of_bytes)).encode("ascii")


def request_of(line: bytes) -> Request:
    """Return the request of a line, decoded as this process decodes its own arguments and paths."""
    data = _mapped(parse_json(line), _text_of_characters)
    return from_data(Request, data, subject="request")


def _characters_of_bytes(text: str) -> str:
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:  # a text of the recipe that this process could not pass itself
        raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("latin-1")


def _text_of_characters(text: str) -> str:
    return os.fsdecode(text.encode("latin-1"))


def _mapped(node: Any, change: Callable[[str], str]) -> Any:
    """Return plain data with each text in it changed, keys too."""
    if isinstance(node, str):
        return change(node)
    if isinstance(node, dict):
        return {change(key): _mapped(value, change) for key, value in node.items()}
    if isinstance(node, list):
        return [_mapped(value, change) for value in node]
    return node


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A process that exited with another code than 0.

    Attributes:
        rank: Rank in the run.
        exit_code: Negative for a signal.
        time_sec: Time at which the exit was noticed, seconds since the epoch, slightly after the exit.
    """

    rank: int
    exit_code: int
    time_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Answer of the helper.

    Attributes:
        event: ``ready`` for requests, ``refused`` (nothing runs), or ``ended`` (nothing runs any more).
        failures: Processes that failed before the helper stopped the others.
        stopped: Whether processes were still running then.
        message: Reason of a refusal.
    """

    event: Literal["ready", "refused", "ended"]
    failures: tuple[Failure, ...] = ()
    stopped: bool = False
    message: str = ""


class LaunchedProcesses(Protocol):
    """The processes of one launch."""

    def exit_codes(self) -> list[int | None]:
        """Return exit codes by rank, None for those that run, negative for a signal."""
        ...

    def stop(self, *, grace_sec: float) -> None:
        """End those that run: SIGTERM, the grace, SIGKILL."""
        ...


class ControlPipes:
    """The helper's end of the two pipes, on descriptors of their own: other code may read 0 and print to 1."""

    def __init__(self) -> None:
        self._fds = (os.dup(0), os.dup(1))
        self._buffer = b""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)

    def send(self, report: Report) -> None:
        """Write a report.

        Raises:
            BrokenPipeError: If the launcher is gone.
        """
        os.write(self._fds[1], to_json_line(report).encode())

    def receive(self, *, timeout_sec: float | None) -> Request | None:
        """Return the next request, or None after the time given.

        Raises:
            EOFError: If the launcher is gone.
        """
        while b"\n" not in self._buffer:
            if not is_readable(self._fds[0], timeout_sec=timeout_sec):
                return None
            chunk = os.read(self._fds[0], 1 << 16)
            if not chunk:
                raise EOFError
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return request_of(line)

    def end_input(self) -> None:
        """Make receive find the input at its end, even if it is waiting."""
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, self._fds[0], inheritable=False)
        os.close(null)

    def close(self) -> None:
        """Close both ends; a rank that kept them would hide the helper's death from the launcher."""
        for fd in self._fds:
            os.close(fd)


def is_readable(fd: int, *, timeout_sec: float | None) -> bool:
    """Return whether a pipe has data, or has come to its end, within the time given; None waits for it.

    Unlike select, poll takes descriptors of any number: a process may hold more than a thousand.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_sec is None else 1000 * timeout_sec))


def become_helper() -> ControlPipes:
    """Make this process a helper of the launcher with the process id in its first argument; before slow imports."""
    # Until it serves there is nothing to clean up, so SIGTERM keeps its default effect.
    die_with_parent(signal.SIGTERM, parent_pid=int(sys.argv[1]))
    adopt_orphans()
    return ControlPipes()


def serve(pipes: ControlPipes, start: Callable[[Request], LaunchedProcesses]) -> None:
    """Serve requests until the launcher is gone.

    Args:
        pipes: To the launcher.
        start: Starts the processes of a launch; an OSError refuses it.
    """
    # A signal closes the input and raises nothing: an exception could interrupt the clean-up itself.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: pipes.end_input())
    try:
        pipes.send(Report(event="ready"))
        while True:
            request = pipes.receive(timeout_sec=None)
            # A stop request that arrives after the end of its launch has nothing left to stop.
            if request and request.action == "launch":
                pipes.send(_launch(request, pipes=pipes, start=start))
    except (EOFError, BrokenPipeError):
        pass


def _launch(request: Request, *, pipes: ControlPipes, start: Callable[[Request], LaunchedProcesses]) -> Report:
    group: LaunchedProcesses | None = None
    try:
        group = start(request)
        failures = _watch(group, pipes=pipes)
        return Report(event="ended", failures=failures, stopped=None in group.exit_codes())
    except BrokenPipeError:
        raise
    except OSError as error:
        return Report(event="refused", message=str(error))
    finally:
        try:
            if group:
                group.stop(grace_sec=request.grace_sec)
        finally:
            end_descendants(grace_sec=0)
            reap_adopted()


def _watch(group: LaunchedProcesses, *, pipes: ControlPipes) -> tuple[Failure, ...]:
    """Wait until all have ended, or SETTLE_SEC after a failure, or for a stop request; return the failures."""
    failures: dict[int, Failure] = {}
    settled_at: float | None = None
    started = time.monotonic()
    while True:
        codes = group.exit_codes()
        for rank, code in enumerate(codes):
            if code and rank not in failures:
                failures[rank] = Failure(rank=rank, exit_code=code, time_sec=time.time())
        now = time.monotonic()
        if failures and settled_at is None:
            settled_at = now + SETTLE_SEC
        is_settled = settled_at is not None and now >= settled_at
        poll_sec = min(_POLL_SEC, max(_FIRST_POLL_SEC, _POLL_SHARE * (now - started)))
        if None not in codes or is_settled or pipes.receive(timeout_sec=poll_sec):
            return tuple(failures.values())
