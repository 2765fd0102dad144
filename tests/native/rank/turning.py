"""Turns of two sides A and B."""

from __future__ import annotations

from pytest_nemoperf.recipes.ab_turn import ABTurn


def turns_of(*, num_steps: int, block_steps: int) -> list[tuple[str, list[int]]]:
    """Return side and steps of each turn of two sides that pass the turn to each other."""
    sides = {
        name: ABTurn(directory="", side=name, other="", is_first=name == "A", block_steps=block_steps) for name in "AB"
    }
    done = dict.fromkeys("AB", 0)
    turns: list[tuple[str, list[int]]] = []
    while min(done.values()) < num_steps:
        name = "AB"[len(turns) % 2]
        steps = [done[name]]
        while steps[-1] + 1 < num_steps and not sides[name].begins_at(steps[-1] + 1):
            steps.append(steps[-1] + 1)
        done[name] = steps[-1] + 1
        turns.append((name, steps))
    return turns
