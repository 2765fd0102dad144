"""Random numbers that depend on seed and purpose, never on the rank that draws them."""

from __future__ import annotations

import hashlib

import torch


def seeded_generator(device: torch.device, *, seed: int, purpose: str) -> torch.Generator:
    """Return a generator that draws the same numbers for the same seed and purpose on every rank.

    Args:
        device: Device that draws; CPU and CUDA draw different numbers.
        seed: Seed of the run.
        purpose: E.g. the name of a weight or the number of a step.
    """
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose=purpose))


def derived_seed(seed: int, *, purpose: str) -> int:
    """Return a seed for one purpose, of 63 bits: torch takes no more."""
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
