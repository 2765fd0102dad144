"""Turns of two runs on the same devices: one side runs steps while the other waits and uses no core or GPU.

Rank r of one side and rank r of the other pass the turn as a byte through two named pipes. Opening a pipe blocks until
the other end is opened, so each side waits until both have built their model; reading sleeps in the kernel; and reading
ends at once if the process at the other end has died. This needs no third process and no polling, and a side whose
other side has ended does not hang.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from pytest_nemoperf.errors import TurnError
from pytest_nemoperf.recipes.ab_turn import TURN_FILE, ABTurn


class TurnPipes:
    """Named pipes between one rank and the same rank of the other side.

    Args:
        turn: Turns of this side.
        rank: Rank in the run.
    """

    def __init__(self, turn: ABTurn, *, rank: int) -> None:
        self._turn = turn
        self._rank = rank
        self._directory = Path(turn.directory)
        self._pipes = ExitStack()
        to_first = self._directory / f"rank{rank}-to-first"
        to_second = self._directory / f"rank{rank}-to-second"
        for path in (to_first, to_second):
            with suppress(FileExistsError):  # the side that comes first makes them
                os.mkfifo(path)
        # Both open the same pipe first, or they would wait for each other at different ones.
        if turn.is_first:
            self._out = self._open(to_second, os.O_WRONLY)
            self._in = self._open(to_first, os.O_RDONLY)
        else:
            self._in = self._open(to_second, os.O_RDONLY)
            self._out = self._open(to_first, os.O_WRONLY)

    def __enter__(self) -> TurnPipes:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._pipes.close()

    def wait(self) -> None:
        """Wait until the other side hands the turn over.

        Raises:
            TurnError: If the other side has ended.
        """
        if not os.read(self._in, 1):
            self._fail()

    def take(self) -> None:
        """Write the name of this side to the turn file, for the message about a side that hangs."""
        if self._rank == 0:
            (self._directory / TURN_FILE).write_text(self._turn.side, encoding="utf-8")

    def hand_over(self) -> None:
        """Give the turn to the other side.

        Raises:
            TurnError: If the other side has ended.
        """
        try:
            os.write(self._out, b"\n")
        except BrokenPipeError:
            self._fail()

    def _open(self, path: Path, flags: int) -> int:
        pipe = os.open(path, flags)
        self._pipes.callback(os.close, pipe)
        return pipe

    def _fail(self) -> NoReturn:
        raise TurnError(
            f"{self._turn.side} waited for its turn, but {self._turn.other} has ended; see the error it left"
        ) from None


def steps_in_turn(
    turn: ABTurn | None, *, rank: int, num_steps: int, wait_for_ranks: Callable[[], None]
) -> Generator[int, None, None]:
    """Yield the numbers of a run's steps, each when it is this side's turn.

    Args:
        turn: This side's part; None for a run that has the devices alone.
        rank: Rank in the run.
        num_steps: Steps of the run, warm-up included; the other side has as many.
        wait_for_ranks: Returns when all ranks of this side have done their work, the devices included.

    Raises:
        TurnError: If the other side ends before its last turn.
    """
    if turn is None:
        yield from range(num_steps)
        return
    with TurnPipes(turn, rank=rank) as pipes:
        for number in range(num_steps):
            if turn.begins_at(number):
                if number > 0 or not turn.is_first:
                    pipes.wait()
                pipes.take()
            yield number
            if turn.begins_at(number + 1) or number + 1 == num_steps:
                wait_for_ranks()
                pipes.hand_over()
        if not turn.is_last(num_steps=num_steps):
            pipes.wait()  # the work after the last step must not disturb the other side's
