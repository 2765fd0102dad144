"""Random numbers that depend on what they are for, never on which rank draws them."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(device: torch.device, *, seed: int, purpose: str) -> torch.Generator:
    """Return a generator that draws the same numbers for the same seed and purpose on every rank.

    Args:
        device: Where the numbers are drawn; CPU and CUDA draw different ones.
        seed: Of the run.
        purpose: What the numbers are for, e.g. the name of a weight or the number of a step.
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose=purpose))


def derived_seed(seed: int, *, purpose: str) -> int:
    """Return a seed of its own, of 63 bits, for each purpose; torch takes no more bits."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
