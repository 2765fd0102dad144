"""Refit: weights go from the layout they are trained in to the layout that generates with them.

Each rank packs what others need of its part, casts it on the way to the type that generates, and all exchange a
bucket at a time. No rank sees more of a weight than it holds or needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.tensor import DTensor

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.moves import RefitTransfer, in_buckets, refit_moves
from pytest_nemoperf.native.parallelize import compute_dtype
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.regions import ShardRegion, generation_holders, held_by, training_holders

BUCKET_BYTES: Final = 2**27
"""Most bytes a rank sends and receives in one exchange; two are under way at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bucket:
    """One exchange as this rank sees it: its moves in the order of the other rank, and elements by that rank."""

    sends: Sequence[RefitTransfer]
    receives: Sequence[RefitTransfer]
    send_sizes: Sequence[int]
    receive_sizes: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """A bucket on its way; the buffers belong to the collective until it is done."""

    bucket: _Bucket
    sent: Tensor
    received: Tensor
    work: dist.Work

    def finish(self, targets: Mapping[str, Tensor]) -> None:
        """Wait for it, and put what came where it belongs."""
        self.work.wait()
        sizes = [move.numel for move in self.bucket.receives]
        for move, values in zip(self.bucket.receives, torch.split(self.received, sizes), strict=True):
            part = targets[move.weight][move.target_slices]
            part.copy_(values.view(part.shape))


class WeightSnapshot:
    """Weights that were sent while their sender trains on: a snapshot."""

    def __init__(self, exchanges: Sequence[_Exchange]) -> None:
        self._exchanges = list(exchanges)

    def wait(self) -> None:
        """Wait until the ranks that generate have it, and free it; calling it again does nothing."""
        for exchange in self._exchanges:
            exchange.finish({})
        self._exchanges.clear()


class Refit:
    """Moves the weights of a run; each of its ranks makes one and calls the same methods in the same order.

    Where training and generation have ranks of their own, those that train may ``start`` and go on, and those that
    generate ``receive`` when they want the weights; otherwise all ``run``.

    Under gloo a collective is carried out by threads of the group, so that ``start`` never waits; a rank that does
    not receive within the group's timeout ends the run. Under NCCL it is a kernel on a stream of the group, which
    waits on the device until the receiver is there: training goes on beside it, but a synchronisation of the whole
    device (``torch.cuda.synchronize``) waits for the receiver as well. Either way the group must be used for nothing
    else, because its collectives are carried out in order.

    Args:
        plan: Model, precision and the two layouts.
        group: All ranks of the run, in their order; None for a run of one.
        device: Of this rank.
        bucket_bytes: Most bytes a rank sends and receives in one exchange.

    Raises:
        PlanError: If one of the layouts doesn't fit the model.
    """

    def __init__(
        self, plan: Plan, *, group: ProcessGroup | None, device: torch.device, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        rank = 0 if group is None else group.rank()
        layout = plan.layout
        moves = refit_moves(plan.model, layout=layout)
        messages = [move for move in moves if move.source != move.target]
        self._group = group
        self._device = device
        self._dtype = compute_dtype(plan.precision)
        self._is_apart = layout.generation is not None and not layout.generation.is_colocated
        self._sources = held_by(rank, holders=training_holders(plan.model, layout=layout))
        self._targets = held_by(rank, holders=generation_holders(plan.model, layout=layout))
        self._needed = {move.weight for move in moves if move.source == rank}
        self._copies = [move for move in moves if move.source == move.target == rank]
        self._buckets = [
            _bucket_of(bucket, rank=rank, num_ranks=layout.total_gpus)
            for bucket in in_buckets(messages, rank=rank, most=max(1, bucket_bytes // self._dtype.itemsize))
        ]
        self.num_bytes: int = sum(move.numel for move in moves) * self._dtype.itemsize
        """Bytes all ranks that generate get in one refit, from others or themselves."""
        self.num_message_bytes: int = sum(move.numel for move in messages) * self._dtype.itemsize
        """Those of them that come from another rank."""

    def run(self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Move the weights, and return when this rank has its own.

        Args:
            sources: This rank's weights as it trains them, by the native engine's names; others than the policy's are
                ignored. Nothing on ranks that only generate.
            targets: Where they go on this rank. Nothing on ranks that only train.

        Raises:
            PlanError: If a weight is missing, or not the part that the layout says.
        """
        sources = self._checked_sources(sources)
        self._check_targets(targets)
        under_way: deque[_Exchange] = deque()
        with torch.no_grad():
            for bucket in self._buckets:
                under_way.append(self._post(bucket, sources))
                if len(under_way) > 1:  # packing goes on while the bucket before is exchanged
                    under_way.popleft().finish(targets)
            for move in self._copies:
                targets[move.weight][move.target_slices].copy_(sources[move.weight][move.source_slices])
            for exchange in under_way:
                exchange.finish(targets)
            self._clear_padding(targets)

    def start(self, sources: Mapping[str, Tensor]) -> WeightSnapshot:
        """Send the weights as they are now, on a rank that only trains, and return at once.

        The caller waits for what is pending at the latest before it starts again.

        Args:
            sources: As for ``run``.

        Raises:
            PlanError: If ranks take turns, or a weight is not the part that the layout says.
        """
        if not self._is_apart:
            raise PlanError(
                "weights can't be sent while training goes on where the same ranks train and generate; "
                "use is_colocated=False, or run"
            )
        sources = self._checked_sources(sources)
        with torch.no_grad():
            return WeightSnapshot([self._post(bucket, sources) for bucket in self._buckets])

    def receive(self, targets: Mapping[str, Tensor]) -> None:
        """Get the weights that the ranks that train have started to send, or wait for them.

        Args:
            targets: As for ``run``.

        Raises:
            PlanError: If a weight is missing, or not the part that the layout says.
        """
        self.run({}, targets)

    def _post(self, bucket: _Bucket, sources: Mapping[str, Tensor]) -> _Exchange:
        sent = torch.empty(sum(bucket.send_sizes), dtype=self._dtype, device=self._device)
        received = torch.empty(sum(bucket.receive_sizes), dtype=self._dtype, device=self._device)
        sizes = [move.numel for move in bucket.sends]
        for move, values in zip(bucket.sends, torch.split(sent, sizes), strict=True):
            part = sources[move.weight][move.source_slices]
            values.view(part.shape).copy_(part)
        itemsize = self._dtype.itemsize
        work = dist.all_to_all_single(
            received.view(torch.uint8),  # any number format travels
            sent.view(torch.uint8),
            [count * itemsize for count in bucket.receive_sizes],
            [count * itemsize for count in bucket.send_sizes],
            group=self._group,
            async_op=True,
        )
        assert work is not None  # noqa: S101 (this rank is in the group)
        return _Exchange(bucket=bucket, sent=sent, received=received, work=work)

    def _checked_sources(self, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors that are on this rank, of the weights that others or it need."""
        local = {
            name: tensor.to_local() if isinstance(tensor, DTensor) else tensor
            for name, tensor in sources.items()
            if name in self._needed
        }
        _check(local, expected={name: self._sources[name] for name in self._needed}, subject="trains")
        return local

    def _check_targets(self, targets: Mapping[str, Tensor]) -> None:
        _check(targets, expected=self._targets, subject="generates")

    def _clear_padding(self, targets: Mapping[str, Tensor]) -> None:
        """Fill with zeros what a vocabulary was filled up with: no rank has it to send."""
        for name, region in self._targets.items():
            for dim, along in enumerate(region.intervals):
                covered = sum(interval.length for interval in along)
                if covered < region.shape[dim]:
                    targets[name].narrow(dim, covered, region.shape[dim] - covered).zero_()


def _bucket_of(moves: Sequence[RefitTransfer], *, rank: int, num_ranks: int) -> _Bucket:
    """Return what a rank does in an exchange; sorting keeps the moves of two ranks in the order both know."""
    sends = sorted((move for move in moves if move.source == rank), key=lambda move: move.target)
    receives = sorted((move for move in moves if move.target == rank), key=lambda move: move.source)
    send_sizes, receive_sizes = [0] * num_ranks, [0] * num_ranks
    for move in sends:
        send_sizes[move.target] += move.numel
    for move in receives:
        receive_sizes[move.source] += move.numel
    return _Bucket(sends=sends, receives=receives, send_sizes=send_sizes, receive_sizes=receive_sizes)


def _check(tensors: Mapping[str, Tensor], *, expected: Mapping[str, ShardRegion], subject: str) -> None:
    for name, region in expected.items():
        if name not in tensors:
            raise PlanError(f"{name} is not among the weights this rank {subject}; give all that its layout has")
        if tuple(tensors[name].shape) != region.shape:
            raise PlanError(
                f"{name} that this rank {subject} has shape {tuple(tensors[name].shape)}, but its layout says "
                f"{region.shape}; a weight must be cut, and sharded, as the layout has it"
            )
