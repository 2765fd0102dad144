"""Out of memory, as programs report it in their logs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# of torchrun, torch or srun --label; behind the hour of a clock there is another digit
_RANK: Final = re.compile(r"^\s*\[?(?:rank|default)?\s*(\d{1,9})\]?\s*[:|](?!\d)", re.IGNORECASE)
_SIZE: Final = re.compile(r"[Tt]ried to allocate (?P<size>[\d.]+ (?:bytes|[KMGT]iB))")
_GPU: Final = re.compile(r"GPU (?P<gpu>\d+)")
_CAPACITY: Final = re.compile(r"total capacity of (?P<new>[\d.]+ [KMGT]iB)|(?P<old>[\d.]+ [KMGT]iB) total capacity")
_FREE: Final = re.compile(r"of which (?P<new>[\d.]+ [KMGT]iB) is free|(?P<old>[\d.]+ [KMGT]iB) free")
_SIGNS: Final = (
    re.compile(r"\bout of memory\b", re.IGNORECASE),  # torch and CUDA
    re.compile(r"\bOutOfMemoryError\b"),
    re.compile(r"DefaultCPUAllocator: can't allocate memory"),
    re.compile(r"\boom[-_]kill", re.IGNORECASE),  # Slurm, the kernel
    re.compile(r"^(?:\[?(?:rank|default)?\s*\d+\]?\s*[:|]\s*)?(?:numpy\.\S*\.)?_?(?:Array)?MemoryError\b"),
)
_NO_REPORT: Final = re.compile(
    r"out of memory\s*\?|\b(?:avoid|prevent|no|without|if)\b.*out.of.memory|out.of.memory.*\b(?:retr|recover)",
    re.IGNORECASE,
)
"""Advice, questions and what was survived, which are no reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """A report of memory that could not be had.

    Attributes:
        rank: Rank that reported it; None if its line names none.
        line: The line.
        size: Size that was asked for; empty if not told.
        gpu: GPU by number; empty if not told.
        capacity: Memory of that GPU; empty if not told.
        free: What was free of it; empty if not told.
    """

    rank: int | None
    line: str
    size: str = ""
    gpu: str = ""
    capacity: str = ""
    free: str = ""

    def describe(self, *, subject: str, rank: int | None = None) -> str:
        """Return a sentence.

        Args:
            subject: Case or file.
            rank: Rank of the log, if the line itself names none.
        """
        of_rank = self.rank if self.rank is not None else rank
        where = f"rank {of_rank} of {subject}" if of_rank is not None else subject
        text = f"OUT OF MEMORY: {where}"
        if self.size:
            text += f" tried to allocate {self.size}"
        if self.gpu:
            text += f" on GPU {self.gpu}"
        facts = []
        if self.capacity:
            facts.append(f"it has {self.capacity}")
        if self.free:
            facts.append(f"{self.free} free")
        if facts:
            text += f" ({', '.join(facts)})"
        if not self.size:
            text += f": {self.line.strip()[:200]}"
        return f"{text}; use a smaller micro-batch or sequence, recomputation, or more shards"


def find_out_of_memory(text: str) -> OutOfMemory | None:
    """Return the first report of memory that could not be had in a log, or None."""
    for line in text.splitlines():
        if _NO_REPORT.search(line) or not any(sign.search(line) for sign in _SIGNS):
            continue
        rank = _RANK.search(line)
        return OutOfMemory(
            rank=int(rank[1]) if rank else None,
            line=line,
            size=_group(_SIZE, line),
            gpu=_group(_GPU, line),
            capacity=_group(_CAPACITY, line),
            free=_group(_FREE, line),
        )
    return None


def _group(pattern: re.Pattern[str], line: str) -> str:
    match = pattern.search(line)
    if match is None:
        return ""
    return next(text for text in match.groups() if text is not None)
