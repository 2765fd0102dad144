"""Handing the turn over, between threads that stand for ranks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_nemoperf.errors import TurnError
from pytest_nemoperf.native.rank.turns import TurnPipes, steps_in_turn
from pytest_nemoperf.recipes.ab_turn import TURN_FILE, ABTurn

SIDES = ("old", "new")
OTHER = {"old": "new", "new": "old"}


def turn_of(side: str, directory: Path, *, block_steps: int = 2) -> ABTurn:
    return ABTurn(
        directory=str(directory), side=side, other=OTHER[side], is_first=side == "old", block_steps=block_steps
    )


def on_both_sides(run: Callable[[str], None]) -> None:
    with ThreadPoolExecutor(max_workers=2) as threads:
        for future in [threads.submit(run, side) for side in SIDES]:
            future.result(timeout=30)


@pytest.mark.parametrize(
    ("num_steps", "order"),
    [
        (8, "old 01 new 0123 old 2345 new 4567 old 67"),
        (5, "old 01 new 0123 old 234 new 4"),
        (1, "old 0 new 0"),
    ],
)
def test_one_side_at_a_time_has_the_turn_and_settles_before_it_gives_it_away(
    num_steps: int, order: str, tmp_path: Path
) -> None:
    log: list[str] = []
    running = threading.Lock()

    def run(side: str) -> None:
        def wait_for_ranks() -> None:
            log.append(f"{side} settles")

        for step in steps_in_turn(turn_of(side, tmp_path), rank=0, num_steps=num_steps, wait_for_ranks=wait_for_ranks):
            assert running.acquire(blocking=False), "both run"
            log.append(f"{side} {step}")
            assert (tmp_path / TURN_FILE).read_text() == side
            running.release()
        log.append("done")

    on_both_sides(run)

    expected = []
    for side, steps in zip(order.split()[::2], order.split()[1::2], strict=True):
        expected += [f"{side} {step}" for step in steps] + [f"{side} settles"]
    assert log == [*expected, "done", "done"]  # nobody goes on before the other's last step


def test_ranks_of_the_same_number_meet(tmp_path: Path) -> None:
    steps: dict[tuple[str, int], list[int]] = {}

    def run(side: str, rank: int) -> None:
        turn = turn_of(side, tmp_path)
        steps[side, rank] = list(steps_in_turn(turn, rank=rank, num_steps=4, wait_for_ranks=lambda: None))

    with ThreadPoolExecutor(max_workers=4) as threads:
        for future in [threads.submit(run, side, rank) for side in SIDES for rank in (0, 1)]:
            future.result(timeout=30)

    assert steps == {(side, rank): [0, 1, 2, 3] for side in SIDES for rank in (0, 1)}


@pytest.mark.parametrize("survivor", SIDES)
def test_a_side_whose_other_side_dies_says_so(survivor: str, tmp_path: Path) -> None:
    def run(side: str) -> None:
        turn = turn_of(side, tmp_path)
        if side != survivor:
            with TurnPipes(turn, rank=0):
                return  # the kernel closes a dead process's pipes, too
        message = f"{side} waited for its turn, but {OTHER[side]} has ended; see the error"
        with pytest.raises(TurnError, match=message):
            for _ in steps_in_turn(turn, rank=0, num_steps=8, wait_for_ranks=lambda: None):
                pass

    on_both_sides(run)


def test_a_step_that_raises_lets_the_other_side_go(tmp_path: Path) -> None:
    def run(side: str) -> None:
        steps = steps_in_turn(turn_of(side, tmp_path), rank=0, num_steps=8, wait_for_ranks=lambda: None)
        if side == "old":
            next(steps)
            steps.close()  # as a generator ends that an exception leaves behind
            return
        with pytest.raises(TurnError, match="old has ended"):
            next(steps)

    on_both_sides(run)


def test_a_run_by_itself_has_all_its_steps_at_once() -> None:
    assert list(steps_in_turn(None, rank=0, num_steps=3, wait_for_ranks=lambda: None)) == [0, 1, 2]
