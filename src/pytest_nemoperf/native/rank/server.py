"""The warm server: imports torch once, then forks fresh ranks for every launch; the launcher runs it by ``python -m``.

Why fork and not a fork server: both start two ranks equally fast once warm, but forked ranks are this process's own
children, so that their exit status, their parent-death signal and the sweep after a launch need no third process.
It is safe because nothing here runs threads of its own and nothing touches the device.

Why torch.multiprocessing and not the elastic layer above it: that layer waits without a limit for ranks that finished
their function but hang on exit, and for an event whose lock a killed rank may hold.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TextIO, cast

from pytest_nemoperf.errors import LostRankError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.process.orphans import die_with_parent
from pytest_nemoperf.process.supervise import ControlPipes, Request, become_helper, serve
from pytest_nemoperf.records.step import RankError, error_file

_PRELOAD = "pytest_nemoperf.native.rank.preload"


class ForkedRanks:
    """Ranks started, waited for and ended by torch's multiprocessing engine."""

    def __init__(self, request: Request, *, pipes: ControlPipes) -> None:
        # Imported late: the parent's death must be noticed while torch is imported.
        self._engine = importlib.import_module("torch.multiprocessing")
        self._context = self._engine.start_processes(
            _rank_main,
            args=(request, pipes, os.getpid()),
            nprocs=len(request.logs),
            join=False,
            start_method="fork",
        )

    def exit_codes(self) -> list[int | None]:
        """Return exit codes by rank, None for those that run, negative for a signal."""
        return [process.exitcode for process in self._context.processes]

    def stop(self, *, grace_sec: float) -> None:
        """End those that run: SIGTERM, the grace, SIGKILL; then collect them all."""
        for process in self._context.processes:
            process.terminate()
        deadline = time.monotonic() + grace_sec
        with suppress(self._engine.ProcessExitedException, self._engine.ProcessRaisedException):
            while not self._context.join(timeout=grace_sec, grace_period=grace_sec):
                if time.monotonic() >= deadline:
                    break


def main() -> None:
    """Import everything that ranks import, then serve launches until the launcher is gone."""
    pipes = become_helper()
    # A library that asks for CUDA while it is imported gets the answer from NVML, not by starting the driver here:
    # ranks could not use a device that was started before they were forked.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    importlib.import_module(_PRELOAD)
    # Frozen objects are never written by a rank's garbage collector, so their pages stay shared.
    gc.collect()
    gc.freeze()
    serve(pipes, partial(ForkedRanks, pipes=pipes))


def _rank_main(rank: int, request: Request, pipes: ControlPipes, server_pid: int) -> None:
    """Turn a forked copy of the server into a rank, and run its entrypoint."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent(signal.SIGKILL, parent_pid=server_pid)
    # A session of its own: signals a rank sends to its process group must not hit the server.
    os.setsid()
    pipes.close()
    _log_to(Path(request.logs[rank]))
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.rank_env(rank))
    module, _, function = request.entrypoint.partition(":")
    sys.argv = [module]
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit:
        raise
    except BaseException as error:  # KeyboardInterrupt too: torch's wrapper would end it with exit code 0
        traceback.print_exc()
        if not isinstance(error, LostRankError):
            _write_error(error, path=Path(request.run_dir) / error_file(rank), rank=rank)
        sys.exit(1)


def _log_to(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        # Lines must be in the file when a rank is killed.
        cast("TextIO", stream).reconfigure(line_buffering=True)  # type: ignore[attr-defined]  # TextIOWrapper has it


def _write_error(error: BaseException, *, path: Path, rank: int) -> None:
    """Write the error file, unless the entrypoint has written its own: that one is nearer to the cause."""
    if path.exists():
        return
    message = "".join(traceback.format_exception_only(error)).strip()
    record = RankError(
        rank=rank,
        time_sec=time.time(),
        message=message,
        traceback=traceback.format_exc(),
        error_type=type(error).__name__,
    )
    with suppress(OSError):  # a full disk: the log has the traceback
        path.write_text(to_json(record), encoding="utf-8")


if __name__ == "__main__":
    main()
