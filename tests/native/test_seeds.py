"""Seeds made from the run's."""

from __future__ import annotations

import torch

from pytest_nemoperf.native.seeds import derived_seed, seeded_generator
from tests.native.tiny import CPU


def test_every_seed_and_purpose_have_a_seed_of_their_own_that_torch_takes() -> None:
    seeds = {derived_seed(seed, purpose=f"sample {sample}") for seed in range(20) for sample in range(20)}

    assert len(seeds) == 400
    assert max(seeds).bit_length() <= 63
    assert max(seeds).bit_length() > 60


def test_a_generator_draws_from_the_derived_seed() -> None:
    drawn = torch.rand(4, generator=seeded_generator(CPU, seed=3, purpose="weights"))

    again = torch.Generator(CPU).manual_seed(derived_seed(3, purpose="weights"))
    assert torch.equal(drawn, torch.rand(4, generator=again))
    assert derived_seed(3, purpose="weights") == derived_seed(3, purpose="weights")
