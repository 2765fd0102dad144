"""Turns: what the ranks of a run are told that shares its devices with the run of another version of the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TURN_FILE: Final = "turn"
"""In the directory of the turns: the name of the side that has the turn; absent until the two sides have met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ABTurn:
    """One side's part in a run of two sides by turns, in blocks of steps and in the order A BB AA BB A.

    So each side has two blocks between two of the other's, and a drift of the machine's speed, as far as it is a
    straight line, weighs equally on both.

    Attributes:
        directory: Where the two sides meet; theirs alone.
        side: Name of this side, for messages, e.g. ``new (working tree)``.
        other: Name of the other side.
        is_first: This side begins.
        block_steps: Steps of a block.
    """

    directory: str
    side: str
    other: str
    is_first: bool
    block_steps: int

    def begins_at(self, step: int) -> bool:
        """Tell whether a turn of this side begins with that step."""
        block, place = divmod(step, self.block_steps)
        return place == 0 and (block == 0 or block % 2 == (1 if self.is_first else 0))

    def is_last(self, *, num_steps: int) -> bool:
        """Tell whether the last step of all is this side's, where both sides run so many."""
        num_blocks = -(-num_steps // self.block_steps)
        return self.is_first == (num_blocks % 2 == 0)
