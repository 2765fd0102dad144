"""How samples of different lengths become rows of micro-batches.

Samples are dealt to the data-parallel ranks so that these have about equally many tokens. Padded, a row is one sample
with nothing behind it, which causal attention does not see; packed, a row is several samples, each with positions and
attention of its own. Where a rank has rows to spare, because others need more, they are empty: all their places are
padding. Padding takes part in all matrix products, routers included, and counts for nothing.
"""

# N samples of a step, S tokens of the longest, B rows of a micro-batch, L places of a row on this rank, K columns of
# what an objective needs to know of a token

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_nemoperf.native.context_parallel import local_positions
from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.passes import MicroBatch
from pytest_nemoperf.native.rollouts import StepSamples
from pytest_nemoperf.native.rope import Tables, at_places, first_places
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.stages import schedule_problems

_ENGINE_TOKENS = 32  # transformer-engine's 8-bit and 4-bit products take a multiple of so many rows
_KEPT_TABLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequence:
    """Places of a row that follow each other and belong together.

    Attributes:
        sample: Whose they are; None for padding alone.
        num_tokens: Of the sample.
        num_places: Those of the tokens, and padding behind them.
    """

    sample: int | None
    num_tokens: int
    num_places: int


Row = Sequence[PackedSequence]


class Batches:
    """Cuts samples into the micro-batches of one rank.

    Args:
        plan: Layout, batch and the longest row.
        mesh: Of this rank.
        dp_rank: Which data-parallel share is this rank's.
        tables: What the model's layers look up about all positions of a row.
        device: Of this rank.
    """

    def __init__(self, plan: Plan, *, mesh: RankMesh, dp_rank: int, tables: Tables, device: torch.device) -> None:
        assert plan.rl is not None  # noqa: S101 (the caller looked)
        self._plan, self._mesh, self._dp_rank = plan, mesh, dp_rank
        self._tables, self._device = tables, device
        self._is_packed = plan.rl.is_packed
        self._num_rows = 1 if self._is_packed else plan.micro_batch_size  # of a micro-batch
        self._row_multiple, self._sample_multiple = _multiples(plan)
        # Steps have rows of ever new lengths: only the latest pieces' tables, which are copies, are worth their memory.
        self._pieces = lru_cache(maxsize=_KEPT_TABLES)(self._tables_of_pieces)

    def cut(self, samples: StepSamples, *, numbers: Sequence[int], is_training: bool) -> list[PackedIndex]:
        """Return this rank's micro-batches of some of the samples; all ranks get equally many.

        Args:
            samples: Of the step.
            numbers: Of those that take part.
            is_training: The number of micro-batches must fit the pipeline's schedule of backward passes.
        """
        all_lens = samples.lens_N.tolist()
        lens = {number: all_lens[number] for number in numbers}
        shares = [self._rows(share, lens) for share in deal(lens, num_ranks=self._plan.layout.dp)]
        num_micro_batches = self._fitting(
            max(-(-len(rows) // self._num_rows) for rows in shares), is_training=is_training
        )
        rows = shares[self._dp_rank]
        rows = [*rows, *[()] * (num_micro_batches * self._num_rows - len(rows))]
        groups = [rows[first : first + self._num_rows] for first in range(0, len(rows), self._num_rows)]
        row_lens = [self._row_len(group) for group in groups]
        if self._mesh.pp is not None:  # whose messages have one shape
            row_lens = [max(row_lens)] * len(groups)
        return [
            self._cut([self._filled(row, row_len) for row in group], samples=samples)
            for group, row_len in zip(groups, row_lens, strict=True)
        ]

    def _rows(self, share: Sequence[int], lens: Mapping[int, int]) -> list[Row]:
        segments = [
            PackedSequence(
                sample=number, num_tokens=lens[number], num_places=_rounded(lens[number], self._sample_multiple)
            )
            for number in share
        ]
        return pack(segments, row_len=self._plan.seq_len) if self._is_packed else [(each,) for each in segments]

    def _fitting(self, num_micro_batches: int, *, is_training: bool) -> int:
        """Return the next number of micro-batches that the schedule takes."""
        layout = self._plan.layout
        return next(
            number
            for number in count(max(1, num_micro_batches))
            if not is_training or not any(schedule_problems(layout, num_micro_batches=number, is_compiled=False))
        )

    def _row_len(self, rows: Sequence[Row]) -> int:
        longest = max(sum(segment.num_places for segment in row) for row in rows)
        return min(self._plan.seq_len, _rounded(max(longest, 1), self._row_multiple))

    def _filled(self, row: Row, row_len: int) -> Row:
        """Return the row with padding up to its end: behind the one sample, or as a segment of its own."""
        if not self._is_packed and row:
            (only,) = row
            return (PackedSequence(sample=only.sample, num_tokens=only.num_tokens, num_places=row_len),)
        missing = row_len - sum(segment.num_places for segment in row)
        return (*row, PackedSequence(sample=None, num_tokens=0, num_places=missing)) if missing else row

    def _cut(self, rows: Sequence[Row], *, samples: StepSamples) -> PackedIndex:
        width = samples.tokens_NS.shape[1]
        nowhere = samples.tokens_NS.numel()
        sources, targets = [], []
        for row in rows:
            for segment in row:
                places_L = local_positions(segment.num_places, mesh=self._mesh)
                first = 0 if segment.sample is None else segment.sample * width
                sources.append(torch.where(places_L < segment.num_tokens, first + places_L, nowhere))
                targets.append(torch.where(places_L + 1 < segment.num_tokens, first + places_L + 1, nowhere))
        source_BL, target_BL = (
            torch.stack([torch.cat(sources), torch.cat(targets)]).view(2, len(rows), -1).to(self._device)
        )
        return PackedIndex(source_BL=source_BL, target_BL=target_BL, tables=self._tables_of(rows))

    def _tables_of(self, rows: Sequence[Row]) -> Tables:
        if self._is_packed:
            (row,) = rows
            places = [local_positions(segment.num_places, mesh=self._mesh) for segment in row]
            lens = tuple(len(places_L) for places_L in places)
            return at_places(self._tables, torch.cat(places).to(self._device), lens=lens)
        row_len = rows[0][0].num_places
        return first_places(self._tables, row_len) if self._mesh.cp is None else self._pieces(row_len)

    def _tables_of_pieces(self, row_len: int) -> Tables:
        """Return what the layers look up about this rank's pieces of a padded row, under context parallelism."""
        return at_places(self._tables, local_positions(row_len, mesh=self._mesh).to(self._device))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedIndex:
    """Where the places of one micro-batch's rows find their tokens, numbered as in the flattened samples.

    Attributes:
        source_BL: The token at each place; one past the last for padding.
        target_BL: The token behind it, which the output of that place is about; the same where there is none.
        tables: What the layers look up about the places.
    """

    source_BL: Tensor
    target_BL: Tensor
    tables: Tables


def micro_batches(
    cuts: Sequence[PackedIndex], *, samples: StepSamples, terms_NSK: Tensor | None = None
) -> list[MicroBatch]:
    """Return what goes through the model; terms are of the tokens that the outputs are about."""
    # The place past the last, which padding looks up, holds zeros.
    tokens = F.pad(samples.tokens_NS.flatten(), (0, 1))
    terms = None if terms_NSK is None else F.pad(terms_NSK.flatten(0, 1), (0, 0, 0, 1))
    return [
        MicroBatch(
            tokens[cut.source_BL],
            tokens[cut.target_BL][..., None],
            None if terms is None else terms[cut.target_BL],
            cut.tables,
        )
        for cut in cuts
    ]


def deal(lens: Mapping[int, int], *, num_ranks: int) -> list[list[int]]:
    """Deal samples to ranks, the longest first, back and forth: as many to each (or one more) and as long.

    Args:
        lens: Tokens of each sample, by its number.
        num_ranks: Shares.

    Returns:
        The numbers of each rank, the longest sample first.
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    for turn, number in enumerate(sorted(lens, key=lambda number: (-lens[number], number))):
        lap, place = divmod(turn, num_ranks)
        shares[place if lap % 2 == 0 else num_ranks - 1 - place].append(number)
    return shares


def pack(segments: Sequence[PackedSequence], *, row_len: int) -> list[Row]:
    """Put segments, the longest first, each into the first row that has places for it."""
    rows: list[list[PackedSequence]] = []
    room: list[int] = []
    for segment in segments:
        row = next((row for row, places in enumerate(room) if places >= segment.num_places), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(row_len)
        rows[row].append(segment)
        room[row] -= segment.num_places
    return [tuple(row) for row in rows]


def _multiples(plan: Plan) -> tuple[int, int]:
    """Return what the places of a row, and of a sample in a packed row, must be multiples of."""
    layout = plan.layout
    pieces = 2 * layout.cp if layout.cp > 1 else 1
    shares = layout.tp * layout.cp if layout.tp > 1 and layout.sequence_parallel else 1
    products = _ENGINE_TOKENS * layout.cp if plan.precision.needs_transformer_engine else 1
    return math.lcm(pieces, shares, products), pieces


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
