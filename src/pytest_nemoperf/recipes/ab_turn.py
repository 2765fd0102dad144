"""Turns of two runs, of two versions of the code, that share their devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.bounds import check_fields

TURN_FILE: Final = "turn"
"""File in the directory of the turns that names the side whose turn it is; absent until both sides have started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ABTurn:
    """One side's turns: blocks of steps of two sides in the order A BB AA BB A.

    In this order a linear drift of the machine's speed affects both sides equally.

    Attributes:
        directory: Shared by the two sides, and used by nothing else.
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

    def __post_init__(self) -> None:
        check_fields(self, subject="turn: ")

    def begins_at(self, step: int) -> bool:
        """Whether a turn of this side begins with that step."""
        block, place = divmod(step, self.block_steps)
        return place == 0 and (block == 0 or block % 2 == (1 if self.is_first else 0))

    def is_last(self, *, num_steps: int) -> bool:
        """Whether this side takes the last turn if each side runs ``num_steps`` steps."""
        num_blocks = -(-num_steps // self.block_steps)
        return self.is_first == (num_blocks % 2 == 0)
