"""Launcher on this machine: ranks are forked from a warm server if there is an entrypoint, else run as commands."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from pytest_nemoperf.errors import LaunchError, RecordError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import read_data
from pytest_nemoperf.launchers.helper import Helper
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus, RankExit
from pytest_nemoperf.process.addresses import INTERFACE_VARIABLES, address_of_one, local_address
from pytest_nemoperf.process.supervise import SETTLE_SEC, Report, Request
from pytest_nemoperf.recipes.recipe import RANK_VARIABLES
from pytest_nemoperf.records.step import RankError, error_file

_SERVER = "pytest_nemoperf.native.rank.server"
_COVERAGE = ("COVERAGE_PROCESS_", "COV_CORE_")
_GUARD = "pytest_nemoperf.launchers.guard"
_FOREIGN_RANK_VARIABLES = ("SLURM_PROCID", "SLURM_LOCALID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK")
"""Variables by which other launchers number the process that pytest is; they are not those of what it starts."""
_POLL_SEC = 0.2
_READY_LIMIT_SEC = 300.0  # imports from a cold network file system take minutes
_STOP_MARGIN_SEC = 5.0


class LocalLauncher:
    """Launcher on this machine; keeps its helper processes warm from launch to launch.

    Each helper (the warm server for entrypoints, the guard for commands) is started when first needed, and again when
    it has died or the environment has changed.

    Args:
        grace_sec: Time between SIGTERM and SIGKILL when processes are stopped.
        cwd: Working directory of helpers and ranks; None for this process's own.
    """

    def __init__(self, *, grace_sec: float = 5.0, cwd: Path | None = None) -> None:
        self._grace_sec = grace_sec
        self._cwd = cwd
        self._helpers: dict[str, Helper] = {}

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        """Run a command's processes to their end or the time limit; logs go to ``run_dir/logs/rank<N>.log``.

        Args:
            command: The processes to start.
            run_dir: Working files of the run.
            timeout_sec: Wall-clock limit from start to the end of the last process; a server's imports don't count.
            on_poll: Called a few times a second during the launch.

        Raises:
            LaunchError: If nothing could be started, or the helper process died.
        """
        module = _SERVER if command.entrypoint else _GUARD
        if command.entrypoint and importlib.util.find_spec("torch") is None:
            raise LaunchError(
                f"{command.entrypoint} needs torch, which is not installed; "
                "install it with: pip install 'pytest-nemoperf[torch]'"
            )
        run_dir = run_dir.resolve()
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        with _reserved_port() as port:
            request = self._request(command, run_dir=run_dir, port=port)
            try:
                helper = self._helper(module, command=command, run_dir=run_dir, on_poll=on_poll)
                helper.send(request)
                report, timed_out = self._await_end(helper, timeout_sec=timeout_sec, on_poll=on_poll)
            except BaseException:  # a Ctrl-C too: nothing may run on when the caller no longer waits
                self._close_helper(module)
                raise
        if report.event == "refused":
            raise LaunchError(
                f"{command.entrypoint or command.argv[0]!r} could not be started: {report.message}; "
                "install the program, or give its path in the recipe's command"
            )
        return _result(report, request=request, timed_out=timed_out)

    def processes(self) -> list[psutil.Process]:
        """Return the helpers and their descendants that still run."""
        processes: list[psutil.Process] = []
        for helper in self._helpers.values():
            processes += helper.processes()
        return processes

    def close(self) -> None:
        """Stop all processes, the helpers included; may be called twice."""
        for module in list(self._helpers):
            self._close_helper(module)

    def _close_helper(self, module: str) -> None:
        helper = self._helpers.pop(module, None)
        if helper is not None:
            helper.close(grace_sec=self._grace_sec)

    def _request(self, command: RankCommand, *, run_dir: Path, port: int) -> Request:
        logs = [str(run_dir / "logs" / f"rank{rank}.log") for rank in range(command.num_processes)]
        env = {**_inherited_environment(), "NEMOPERF_RUN_DIR": str(run_dir)}
        if command.is_rank:
            size = str(command.num_processes)
            env |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": str(port)}
            env = _rendezvous_environment(is_alone=command.num_processes == 1) | env
        env |= command.env
        return Request(
            action="launch",
            argv=command.argv,
            entrypoint=command.entrypoint or "",
            env=env,
            is_rank=command.is_rank,
            cwd=str(self._cwd or Path.cwd()),
            logs=tuple(logs),
            run_dir=str(run_dir),
            grace_sec=self._grace_sec,
        )

    def _helper(self, module: str, *, command: RankCommand, run_dir: Path, on_poll: Callable[[], None]) -> Helper:
        # Without the variables of this launch alone: a helper with another environment is started anew.
        env = {**_inherited_environment(), **command.env}
        helper = self._helpers.get(module)
        if helper and helper.serves(env):
            return helper
        self._close_helper(module)
        log = run_dir / "logs" / f"{module.rpartition('.')[2]}.log"
        helper = Helper(module, env=env, log=log, cwd=self._cwd)
        self._helpers[module] = helper
        deadline = time.monotonic() + _READY_LIMIT_SEC
        while helper.receive(timeout_sec=_POLL_SEC) is None:
            on_poll()
            if time.monotonic() >= deadline:
                raise LaunchError(
                    f"the helper process {module} was not ready after {_READY_LIMIT_SEC:.0f} s; see its log {log}"
                )
        return helper

    def _await_end(self, helper: Helper, *, timeout_sec: float, on_poll: Callable[[], None]) -> tuple[Report, bool]:
        """Return the last report, and whether the launch has timed out."""
        deadline = time.monotonic() + timeout_sec
        give_up = deadline + 2 * self._grace_sec + _STOP_MARGIN_SEC
        timed_out = False
        while True:
            report = helper.receive(timeout_sec=_POLL_SEC)
            if report:
                return report, timed_out and report.stopped
            on_poll()
            now = time.monotonic()
            if now >= deadline and not timed_out:
                timed_out = True
                helper.send(Request(action="stop"))
            if now >= give_up:
                helper.close(grace_sec=0)
                return Report(event="ended", stopped=True), True


def _inherited_environment() -> dict[str, str]:
    """Return this process's environment without those of its own rank, if it is one of another launcher's.

    Variables of coverage are left out as well, or it would be timed.
    """
    inherited = {}
    for name, value in os.environ.items():
        if name not in (*RANK_VARIABLES, *_FOREIGN_RANK_VARIABLES) and not name.startswith(_COVERAGE):
            inherited[name] = value
    return inherited


def _rendezvous_environment(*, is_alone: bool) -> dict[str, str]:
    """Return the variables of the address at which the ranks of this host meet.

    Raises:
        LaunchError: If no address of this host can be connected to, and there are several ranks.
    """
    chosen = address_of_one() if is_alone else local_address()
    if not chosen.interface:
        return {"MASTER_ADDR": chosen.address}
    return {"MASTER_ADDR": chosen.address, **dict.fromkeys(INTERFACE_VARIABLES, chosen.interface)}


def _result(report: Report, *, request: Request, timed_out: bool) -> LaunchResult:
    """Return the result of a launch, its failures by time: the first one is the cause.

    The time is that of a rank's error file if there is one, which is more precise than that of the exit.
    """
    codes: dict[int, int] = {}
    times: dict[int, float] = {}
    for failure in report.failures:
        codes[failure.rank] = failure.exit_code
        # The exit of a rank without an error file is noticed late, while other ranks write "connection closed" at once.
        times[failure.rank] = failure.time_sec - SETTLE_SEC
    for rank in range(len(request.logs)):
        path = Path(request.run_dir) / error_file(rank)
        if path.exists():
            times[rank] = _error_time(path)
    failures = []
    for rank in sorted(times, key=lambda rank: (times[rank], rank)):
        # A rank with an error file but no exit code still ran, and was ended by the helper.
        failures.append(RankExit(rank=rank, exit_code=codes.get(rank, -signal.SIGTERM)))
    if timed_out:
        status = LaunchStatus.TIMED_OUT
    elif failures:
        status = LaunchStatus.FAILED
    else:
        status = LaunchStatus.OK
    return LaunchResult(status=status, failures=tuple(failures), logs=tuple(map(Path, request.logs)))


def _error_time(path: Path) -> float:
    try:
        return read_data(RankError, path).time_sec
    except RecordError:  # torn: written while the process was killed
        return path.stat().st_mtime


@contextmanager
def _reserved_port() -> Iterator[int]:
    """Reserve a port for rank 0 and yield its number.

    The kernel gives the port to no other process while a socket is bound to it. As that socket does not listen and both
    sockets set SO_REUSEADDR (torch's store does), rank 0 can still bind and listen.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]
