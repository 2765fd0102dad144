"""Ranks with one defect each, which the parity tests must notice. Entrypoints of the warm server."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.layouts.pipeline_actions import Message
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import SectionCut, Weight
from pytest_nemoperf.native.model.value_head import ValueHead
from pytest_nemoperf.native.parallel import (
    collectives,
    context_parallel,
    expert_parallel,
    gradients,
    mesh,
    passes,
    pipeline,
    sharding,
    tensor_parallel,
)
from pytest_nemoperf.native.parallel.gradients import Gradients
from pytest_nemoperf.native.parallel.messages import Messages
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.parallel.passes import MicroBatch
from pytest_nemoperf.native.parallel.pipeline import Pipeline
from pytest_nemoperf.native.parallel.sharding import AxisShard
from pytest_nemoperf.native.parallel.stage import Stage
from pytest_nemoperf.native.rank import entry, yardstick
from pytest_nemoperf.native.train import data, optimizer_step


def without_norm_reduction() -> None:
    """Sequence parallelism without the sum of norms' gradients over the ranks' tokens."""
    with mock.patch.object(Gradients, "reduce", return_value=None):
        entry.main()


def with_values_to_learn() -> None:
    """No defect: a value model learns to predict each next token's id, over the vocabulary's size.

    With its own output as the loss every token's gradient would be the same.
    """

    def learning(plan, **options):  # type: ignore[no-untyped-def]  # passes on what it is given
        def squared_error(head: nn.Module, args: tuple[Any, ...], value_T: Tensor) -> Tensor:
            del head
            error_T: Tensor = value_T - args[1] / plan.model.vocab_size
            return error_T.square()

        chunks = parallelize(plan, **options)
        for module in (each for chunk in chunks for each in chunk.modules()):
            if isinstance(module, ValueHead):
                module.register_forward_hook(squared_error)  # after that of tensor parallelism
        return chunks

    with mock.patch.object(entry, "parallelize", learning):
        entry.main()


def with_values_counted_by_each_rank() -> None:
    """``with_values_to_learn`` under tensor parallelism that sums the replicated gradients of values."""
    with mock.patch.object(tensor_parallel, "all_gather_replicated", collectives.all_gather):
        with_values_to_learn()


def without_sum_of_value_gradients() -> None:
    """``with_values_to_learn`` without the sum of the value head's gradient over the ranks' tokens."""
    original = gradients._reductions

    def without_head(pairs: Sequence[tuple[Tensor, Weight]], **options: Any) -> Iterable[gradients._Reduction]:
        return original([pair for pair in pairs if pair[1].name != "head.weight"], **options)

    with mock.patch.object(gradients, "_reductions", without_head):
        with_values_to_learn()


def without_sum_of_copied_gradients() -> None:
    """Copies of key-value heads without the sum of their gradients."""
    original = gradients._reductions

    def without_copies(*args: Any, **options: Any) -> Iterable[gradients._Reduction]:
        return [each for each in original(*args, **options) if all(piece.num_copies == 1 for piece in each.pieces)]

    with mock.patch.object(gradients, "_reductions", without_copies):
        entry.main()


def with_copies_counted_each() -> None:
    """A gradient norm that counts each of a head's two copies as a weight of its own."""
    original = Gradients.__init__

    def counted(self: Gradients, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self._by_copies[1] += self._by_copies.pop(2)

    with mock.patch.object(Gradients, "__init__", counted):
        entry.main()


def with_heads_of_others() -> None:
    """Copies of key-value heads assigned in turn, so that most ranks have queries of other heads."""

    def in_turn(cut: SectionCut, rank: int) -> tuple[int, int]:
        if cut.num_copies > 1:
            rank %= cut.num_copies
        return cut.start + rank * cut.length, cut.start + (rank + 1) * cut.length

    with mock.patch.object(SectionCut, "bounds", in_turn):
        entry.main()


def with_copies_in_turn() -> None:
    """Context parallelism that trades the copies of all key-value heads in turn, not each head's together."""

    def in_turn(x_BKSC: Tensor, *, cp: int) -> Tensor:
        return x_BKSC.repeat(1, cp // x_BKSC.shape[1], 1, 1)

    with mock.patch.object(context_parallel, "_copy_heads", in_turn):
        entry.main()


def without_gradient_sync() -> None:
    """DDP that never averages gradients."""

    def never(model: DistributedDataParallel, *, is_on: bool) -> AbstractContextManager[None]:
        del is_on
        return model.no_sync()

    with mock.patch.object(passes, "gradient_sync", never):
        entry.main()


def with_everyones_first_share() -> None:
    """Data parallelism with the same sequences on all ranks."""
    original = data.SyntheticTokens

    def first_share(plan, *, dp_rank, **options):  # type: ignore[no-untyped-def]  # passes on what it is given
        del dp_rank
        return original(plan, dp_rank=0, **options)

    with mock.patch.object(entry, "SyntheticTokens", first_share):
        entry.main()


def without_sum_of_tied_gradients() -> None:
    """A pipeline without the sum of the tied tables' gradients on the first and the last stage."""
    with mock.patch.object(optimizer_step, "shared_embedding", return_value=None):
        entry.main()


def without_last_micro_batch() -> None:
    """A pipeline that runs its first micro-batch twice, and never the last."""
    original = Pipeline.forward_backward

    def repeated(self: Pipeline, micro_batches: Sequence[MicroBatch]) -> Tensor:
        return original(self, [*micro_batches[:-1], micro_batches[0]])

    with mock.patch.object(Pipeline, "forward_backward", repeated):
        entry.main()


def with_layers_in_the_wrong_order() -> None:
    """A pipeline with the ranks' layers in reverse order."""

    def swapped(model: ModelConfig, *, pp: int, vp: int) -> tuple[tuple[range, ...], ...]:
        return stage_layers(model, pp=pp, vp=vp)[::-1]

    with mock.patch.object(pipeline, "stage_layers", swapped):
        entry.main()


def looking_at_message_buffers() -> None:
    """No defect, but a rank that keeps the buffer of a message after its pass fails."""
    taken: list[weakref.ref[Tensor]] = []
    take = Messages.take
    run = Pipeline.forward_backward

    def noted(self: Messages, message: Message) -> Tensor:
        buffer_TD = take(self, message)
        taken.append(weakref.ref(buffer_TD))
        return buffer_TD

    def checked(self: Pipeline, micro_batches: Sequence[MicroBatch]) -> Tensor:
        loss = run(self, micro_batches)
        assert taken
        num_alive = sum(reference() is not None for reference in taken)
        assert num_alive == 0, f"{num_alive} buffers are still alive"
        return loss

    with mock.patch.object(Messages, "take", noted), mock.patch.object(Pipeline, "forward_backward", checked):
        entry.main()


def keeping_message_buffers() -> None:
    """``looking_at_message_buffers`` in a pipeline that frees none of them."""
    kept: list[Tensor] = []
    take = Messages.take

    def keeping(self: Messages, message: Message) -> Tensor:
        kept.append(take(self, message))
        return kept[-1]

    with mock.patch.object(Messages, "take", keeping):
        looking_at_message_buffers()


def with_sequences_out_of_order() -> None:
    """Context parallelism with the pieces in the order of the ranks."""
    with mock.patch.object(context_parallel, "_in_order", lambda x, **_: x):
        entry.main()


def with_everyones_first_part() -> None:
    """Tensor parallelism with the first shard of each matrix on all ranks."""
    with mock.patch.object(
        sharding, "_axis_shard", lambda split, group: AxisShard(split=split, degree=group.size(), rank=0)
    ):
        entry.main()


def without_replicas() -> None:
    """HSDP that averages over its shards alone."""

    def shards_alone(groups: mesh._Groups, ranks: Tensor, *, device_type: str) -> DeviceMesh:
        group = groups.along(ranks, 2)
        assert group is not None
        return DeviceMesh.from_group(group, device_type, mesh_dim_names=("shard",))

    with mock.patch.object(mesh._Groups, "mesh", shards_alone):
        entry.main()


def without_weight_passes() -> None:
    """A zero-bubble pipeline that never computes the weights' gradients of its first micro-batch."""
    original = Stage.backward_weight

    def all_but_first(stage: Stage, number: int) -> None:
        if number:
            original(stage, number)

    with mock.patch.object(Stage, "backward_weight", all_but_first):
        entry.main()


def with_rows_for_other_experts() -> None:
    """Expert parallelism that hands received rows to experts in the order they came."""

    def as_they_came(counts: Tensor, *, num_rows: int) -> tuple[Tensor, Tensor]:
        order = torch.arange(num_rows)
        return order, order

    with mock.patch.object(expert_parallel, "_by_expert", as_they_came):
        entry.main()


def with_experts_unscaled() -> None:
    """Expert parallelism with sums, not means, of the experts' gradients."""
    original = gradients._reductions

    def without_experts(pairs: Sequence[tuple[Tensor, Weight]], **options: Any) -> Iterable[gradients._Reduction]:
        return original([pair for pair in pairs if not pair[1].is_expert], **options)

    with mock.patch.object(gradients, "_reductions", without_experts):
        entry.main()


def without_room_on_one_rank() -> None:
    """No defect: the device of rank 1 has no room for the yardstick."""
    copy = yardstick._time_copy

    def time_copy(*arguments: Any, **named: Any) -> float:
        if torch.distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("full")
        return copy(*arguments, **named)

    with mock.patch.object(yardstick, "_time_copy", time_copy):
        entry.main()
