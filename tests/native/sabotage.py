"""Ranks with one thing left out each: what the parity tests must notice. Entrypoints of the warm server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest import mock

from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.native import data, rank, train
from pytest_nemoperf.native.gradients import Gradients


def without_norm_reduction() -> None:
    """Sequence parallelism whose norms never hear of the other ranks' tokens."""
    with mock.patch.object(Gradients, "complete", return_value=None):
        rank.main()


def without_gradient_sync() -> None:
    """DDP that never averages gradients."""

    def never(model: DistributedDataParallel, *, is_on: bool) -> AbstractContextManager[None]:
        del is_on
        return model.no_sync()

    with mock.patch.object(train, "gradient_sync", never):
        rank.main()


def with_everyones_first_share() -> None:
    """Data parallelism whose ranks all read the same sequences."""
    original = data.SyntheticTokens

    def first_share(plan, *, dp_rank, **options):  # type: ignore[no-untyped-def]  # passes on what it is given
        del dp_rank
        return original(plan, dp_rank=0, **options)

    with mock.patch.object(rank, "SyntheticTokens", first_share):
        rank.main()
