"""Refit: transfer of weights from the training layout to the generation layout.

Each rank packs the elements that others need, cast to the dtype of generation, and all ranks exchange one bucket at a
time. No rank gets more of a weight than it holds or needs.
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
from pytest_nemoperf.layouts.refit_transfers import RefitTransfer, refit_transfers, split_into_buckets
from pytest_nemoperf.layouts.weight_regions import ShardRegion, generation_holders, regions_of_rank, training_holders
from pytest_nemoperf.native.parallel.parallelize import generation_dtype
from pytest_nemoperf.recipes.recipe import Plan

BUCKET_BYTES: Final = 2**27
"""Most bytes a rank sends and receives in one exchange; two are under way at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bucket:
    """One exchange of this rank: transfers sorted by peer rank, and number of elements per peer rank."""

    sends: Sequence[RefitTransfer]
    receives: Sequence[RefitTransfer]
    send_sizes: Sequence[int]
    receive_sizes: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _BucketInFlight:
    """A bucket in flight; the collective owns the buffers until it is done."""

    bucket: _Bucket
    sent: Tensor
    received: Tensor
    work: dist.Work

    def finish(self, targets: Mapping[str, Tensor]) -> None:
        """Wait for the collective, and copy the received elements into the targets."""
        self.work.wait()
        sizes = [transfer.numel for transfer in self.bucket.receives]
        for transfer, values in zip(self.bucket.receives, torch.split(self.received, sizes), strict=True):
            block = targets[transfer.weight][transfer.target_slices]
            block.copy_(values.view(block.shape))


class WeightSnapshot:
    """Snapshot of weights being sent while their sender trains on."""

    def __init__(self, exchanges: Sequence[_BucketInFlight]) -> None:
        self._exchanges = list(exchanges)

    def wait(self) -> None:
        """Wait until the generating ranks have received it, and free it; calling it again does nothing."""
        for exchange in self._exchanges:
            exchange.finish({})
        self._exchanges.clear()


class Refit:
    """Transfers the weights of a run; every rank makes one and calls the same methods in the same order.

    If training and generation have ranks of their own, training ranks may ``start`` and train on, and generating ranks
    ``receive`` when they need the weights; otherwise all ``run``.

    Under gloo a collective runs in threads of the group, so that ``start`` never waits; a rank that does not receive
    within the group's timeout ends the run. Under NCCL it is a kernel on a stream of the group, which waits on the
    device for the receiver: training goes on beside it, but a synchronisation of the whole device
    (``torch.cuda.synchronize``) waits for the receiver as well. Either way the group must be used for nothing else,
    because its collectives run in order.

    Args:
        plan: Model, precision and the two layouts.
        group: All ranks of the run, in their order; None for a run of one.
        device: Device of this rank.
        bucket_bytes: Most bytes a rank sends and receives in one exchange.

    Raises:
        PlanError: If one of the layouts doesn't fit the model.
    """

    def __init__(
        self, plan: Plan, *, group: ProcessGroup | None, device: torch.device, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        rank = 0 if group is None else group.rank()
        layout = plan.layout
        self._group = group
        self._device = device
        self._dtype = generation_dtype(plan)
        self._is_apart = layout.generation is not None and not layout.generation.is_colocated
        self._sources = regions_of_rank(rank, holders=training_holders(plan.model, layout=layout))
        self._targets = regions_of_rank(rank, holders=generation_holders(plan.model, layout=layout))
        self._needed: set[str] = set()
        self._copies: list[RefitTransfer] = []
        self.num_bytes = 0
        """Bytes all generating ranks get in one refit, from others or themselves."""
        self.num_message_bytes = 0
        """Bytes of these that come from another rank."""
        messages: list[RefitTransfer] = []
        itemsize = self._dtype.itemsize
        for transfer in refit_transfers(plan.model, layout=layout):
            self.num_bytes += transfer.numel * itemsize
            if transfer.source == rank:
                self._needed.add(transfer.weight)
            if transfer.source != transfer.target:
                self.num_message_bytes += transfer.numel * itemsize
                messages.append(transfer)
            elif transfer.source == rank:
                self._copies.append(transfer)
        buckets = split_into_buckets(messages, rank=rank, max_numel=max(1, bucket_bytes // itemsize))
        self._buckets = [_bucket_of(bucket, rank=rank, num_ranks=layout.total_gpus) for bucket in buckets]

    def run(self, sources: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        """Transfer the weights, and return when this rank has its own.

        Args:
            sources: This rank's training weights, by the native engine's names; others than the policy's are ignored.
                Empty on ranks that only generate.
            targets: This rank's generation weights, filled in place. Empty on ranks that only train.

        Raises:
            PlanError: If a weight is missing, or is not the shard of the layout.
        """
        sources = self._checked_sources(sources)
        _check(targets, expected=self._targets, subject="generates")
        in_flight: deque[_BucketInFlight] = deque()
        with torch.no_grad():
            for bucket in self._buckets:
                in_flight.append(self._post(bucket, sources))
                if len(in_flight) > 1:  # the next bucket is packed while this one is exchanged
                    in_flight.popleft().finish(targets)
            for copy in self._copies:
                targets[copy.weight][copy.target_slices].copy_(sources[copy.weight][copy.source_slices])
            for exchange in in_flight:
                exchange.finish(targets)
            self._clear_padding(targets)

    def start(self, sources: Mapping[str, Tensor]) -> WeightSnapshot:
        """Start sending a snapshot of the weights, on a rank that only trains, and return at once.

        The caller must wait for the snapshot before it starts the next one.

        Args:
            sources: As for ``run``.

        Raises:
            PlanError: If the same ranks train and generate, or a weight is not the shard of the layout.
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
        """Receive the weights of a ``start`` on the training ranks, or wait for it.

        Args:
            targets: As for ``run``.

        Raises:
            PlanError: If a weight is missing, or is not the shard of the layout.
        """
        self.run({}, targets)

    def _post(self, bucket: _Bucket, sources: Mapping[str, Tensor]) -> _BucketInFlight:
        sent = torch.empty(sum(bucket.send_sizes), dtype=self._dtype, device=self._device)
        received = torch.empty(sum(bucket.receive_sizes), dtype=self._dtype, device=self._device)
        sizes = [transfer.numel for transfer in bucket.sends]
        for transfer, values in zip(bucket.sends, torch.split(sent, sizes), strict=True):
            block = sources[transfer.weight][transfer.source_slices]
            values.view(block.shape).copy_(block)
        itemsize = self._dtype.itemsize
        work = dist.all_to_all_single(
            received.view(torch.uint8),  # works for any dtype
            sent.view(torch.uint8),
            [count * itemsize for count in bucket.receive_sizes],
            [count * itemsize for count in bucket.send_sizes],
            group=self._group,
            async_op=True,
        )
        assert work is not None  # noqa: S101 (this rank is in the group)
        return _BucketInFlight(bucket=bucket, sent=sent, received=received, work=work)

    def _checked_sources(self, sources: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return this rank's local tensors of the weights it must send or copy."""
        local: dict[str, Tensor] = {}
        for name, tensor in sources.items():
            if name not in self._needed:
                continue
            local[name] = tensor
            if isinstance(tensor, DTensor):
                local[name] = tensor.to_local()
        _check(local, expected={name: self._sources[name] for name in self._needed}, subject="trains")
        return local

    def _clear_padding(self, targets: Mapping[str, Tensor]) -> None:
        """Zero the padding of the vocabulary, which no rank sends."""
        for name, region in self._targets.items():
            for dim, along in enumerate(region.intervals):
                covered = sum(interval.length for interval in along)
                if covered < region.shape[dim]:
                    targets[name].narrow(dim, covered, region.shape[dim] - covered).zero_()


def _bucket_of(transfers: Sequence[RefitTransfer], *, rank: int, num_ranks: int) -> _Bucket:
    """Return a rank's part of an exchange; sorting is stable, so both ranks of a pair have the same order."""
    sends = []
    receives = []
    send_sizes = [0] * num_ranks
    receive_sizes = [0] * num_ranks
    for transfer in transfers:
        if transfer.source == rank:
            sends.append(transfer)
            send_sizes[transfer.target] += transfer.numel
        if transfer.target == rank:
            receives.append(transfer)
            receive_sizes[transfer.source] += transfer.numel
    sends.sort(key=lambda transfer: transfer.target)
    receives.sort(key=lambda transfer: transfer.source)
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
