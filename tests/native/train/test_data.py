"""Synthetic tokens: the same global batch in every layout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.train.data import SyntheticTokens
from tests.native.tiny import CPU, tiny_config, tiny_plan


def batch_of(layout: Layout, *, micro_batch_size: int, step: int = 0, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Return all sequences of a step and their labels, put together from every rank's micro-batches."""
    plan = tiny_plan(layouts={"cpu": layout}, global_batch_size=8, micro_batch_size=micro_batch_size, seed=seed)
    shares = [SyntheticTokens(plan, dp_rank=rank, device=CPU) for rank in range(layout.dp)]
    batches = [batch for share in shares for batch in share.micro_batches(step)]
    assert {tuple(tokens.shape) for tokens, _ in batches} == {(micro_batch_size, plan.seq_len)}
    return torch.cat([tokens for tokens, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("layout", [Layout(gpus=2, dp_replicate=2), Layout(gpus=4, dp_replicate=2, dp_shard=2)])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_every_layout_reads_the_same_global_batch(layout: Layout, micro_batch_size: int) -> None:
    whole = batch_of(Layout(gpus=1), micro_batch_size=8)

    shared = batch_of(layout, micro_batch_size=micro_batch_size)

    assert torch.equal(shared[0], whole[0])
    assert torch.equal(shared[1], whole[1])


def test_labels_are_the_next_tokens() -> None:
    tokens, labels = batch_of(Layout(gpus=1), micro_batch_size=8)

    assert labels.shape == (*tokens.shape, 1)
    assert torch.equal(labels[:, :-1, 0], tokens[:, 1:])


def test_a_model_that_predicts_further_ahead_gets_more_labels() -> None:
    plan = tiny_plan(layouts={"cpu": Layout(gpus=1)}, model=tiny_config(mtp_num_layers=2), micro_batch_size=4)

    ((tokens, labels),) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)

    assert labels.shape == (*tokens.shape, 3)
    assert all(torch.equal(labels[:, : -1 - depth, depth], tokens[:, 1 + depth :]) for depth in range(3))


def test_a_rank_of_context_parallelism_has_its_positions() -> None:
    plan = tiny_plan(layouts={"cpu": Layout(gpus=1)}, micro_batch_size=4)
    positions = torch.tensor([3, 0])

    ((whole, _),) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)
    ((tokens, labels),) = SyntheticTokens(plan, dp_rank=0, device=CPU, positions=positions).micro_batches(0)

    assert torch.equal(tokens, whole[:, positions])
    assert torch.equal(labels[..., 0], whole[:, positions + 1])


def test_steps_and_seeds_bring_other_tokens() -> None:
    tokens, _ = batch_of(Layout(gpus=1), micro_batch_size=8)

    of_next_step, _ = batch_of(Layout(gpus=1), micro_batch_size=8, step=1)
    of_other_seed, _ = batch_of(Layout(gpus=1), micro_batch_size=8, seed=2)

    assert not torch.equal(tokens, of_next_step)
    assert not torch.equal(tokens, of_other_seed)


def test_tokens_fill_the_vocabulary_unevenly() -> None:
    tokens, _ = batch_of(Layout(gpus=1), micro_batch_size=8)

    assert tokens.min() == 0
    assert tokens.max() < 64
    assert (tokens < 8).float().mean() > 0.5  # uniform would be an eighth
