"""Guard: helper process that starts a user's commands and ends their whole process trees. Needs no torch."""

from __future__ import annotations

import os
import signal
import subprocess
from functools import partial

from pytest_nemoperf.process.orphans import die_with_parent, end_descendants
from pytest_nemoperf.process.supervise import Request, become_helper, serve


class Commands:
    """Commands of one launch, each in a session of its own."""

    def __init__(self, request: Request) -> None:
        # SIGTERM, not SIGKILL: if the guard is killed, engines like torchrun still end their workers.
        dies_with_guard = partial(die_with_parent, signal.SIGTERM, parent_pid=os.getpid())
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank, path in enumerate(request.logs):
            with open(path, "ab") as log:  # noqa: PTH123 (a plain name, used once)
                self._processes.append(
                    subprocess.Popen(  # noqa: S603 (the user's own command)
                        request.argv,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=request.rank_env(rank),
                        cwd=request.cwd,
                        start_new_session=True,
                        preexec_fn=dies_with_guard,  # noqa: PLW1509 (the guard has no threads)
                    )
                )

    def exit_codes(self) -> list[int | None]:
        """Return exit codes by rank: None while running, negative for a signal."""
        return [process.poll() for process in self._processes]

    def stop(self, *, grace_sec: float) -> None:
        """End the commands and all their descendants: SIGTERM, the grace, SIGKILL."""
        end_descendants(grace_sec=grace_sec)
        for process in self._processes:
            process.poll()


def main() -> None:
    """Serve launches until the launcher has ended."""
    serve(become_helper(), Commands)


if __name__ == "__main__":
    main()
