"""Micro-batches of samples of different lengths: padded or packed rows.

Samples are distributed over the data-parallel ranks so that these have about equally many tokens. A padded row is one
sample with padding behind it, which causal attention does not see; a packed row is several samples, each with positions
and attention of its own. A rank that needs fewer rows than others gets empty ones, all padding. Padding takes part in
all matrix products, routers included, and in no result.
"""

# N samples of a step, S tokens of the longest, B rows of a micro-batch, L positions of a row on this rank, K terms of
# the objective per token

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_nemoperf.layouts.pipeline_stages import schedule_problems
from pytest_nemoperf.native.model.rope import PositionTables, first_positions, gather_positions
from pytest_nemoperf.native.parallel.context_parallel import local_positions
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.passes import MicroBatch
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.recipes.recipe import Plan

_ENGINE_TOKENS = 32  # transformer-engine's 8-bit and 4-bit products take a multiple of so many rows
_KEPT_TABLES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSequence:
    """A sample in a row, and padding behind it.

    Attributes:
        sample: Its number; None for padding alone.
        num_tokens: Tokens of the sample.
        padded_len: Tokens and padding.
    """

    sample: int | None
    num_tokens: int
    padded_len: int


Row = Sequence[PackedSequence]


class Batches:
    """Micro-batches of one rank, cut from samples.

    Args:
        plan: Layout, batch and the longest row.
        mesh: Process groups of this rank.
        dp_rank: Number of the data-parallel share.
        tables: Position tables of the model's layers, for all positions of a row.
        device: Device of this rank.
    """

    def __init__(
        self, plan: Plan, *, mesh: RankMesh, dp_rank: int, tables: PositionTables, device: torch.device
    ) -> None:
        assert plan.rl is not None  # noqa: S101 (the caller checked it)
        self._plan = plan
        self._mesh = mesh
        self._dp_rank = dp_rank
        self._tables = tables
        self._device = device
        self._is_packed = plan.rl.is_packed
        self._num_rows = 1 if self._is_packed else plan.micro_batch_size  # of a micro-batch
        self._row_multiple, self._sample_multiple = _multiples(plan)
        # Row lengths may differ in every step: keep the latest tables only, which are copies.
        self._kept_local_tables = lru_cache(maxsize=_KEPT_TABLES)(self._local_tables)

    def cut(self, samples: StepSamples, *, numbers: Sequence[int], is_training: bool) -> list[PackedIndex]:
        """Return this rank's micro-batches of some samples; all ranks get equally many.

        Args:
            samples: Samples of the step.
            numbers: Indices of the samples that take part.
            is_training: The number of micro-batches must fit the pipeline's schedule of backward passes.
        """
        all_lens = samples.lens_N.tolist()
        lens = {number: all_lens[number] for number in numbers}
        rows_by_rank = [self._rows(share, lens) for share in _deal(lens, num_ranks=self._plan.layout.dp)]
        most_rows = max(map(len, rows_by_rank))
        num_micro_batches = self._num_scheduled(math.ceil(most_rows / self._num_rows), is_training=is_training)
        rows = rows_by_rank[self._dp_rank]
        num_missing = num_micro_batches * self._num_rows - len(rows)
        rows = [*rows, *[()] * num_missing]
        groups = [rows[first : first + self._num_rows] for first in range(0, len(rows), self._num_rows)]
        row_lens = list(map(self._row_len, groups))
        if self._mesh.pp is not None:  # its messages have one shape
            row_lens = [max(row_lens)] * len(groups)
        cuts = []
        for group, row_len in zip(groups, row_lens, strict=True):
            filled = [self._filled(row, row_len) for row in group]
            cuts.append(self._cut(filled, samples=samples))
        return cuts

    def _rows(self, share: Sequence[int], lens: Mapping[int, int]) -> list[Row]:
        """Return the rows of one rank's samples."""
        sequences = []
        for number in share:
            padded_len = _rounded(lens[number], self._sample_multiple)
            sequences.append(PackedSequence(sample=number, num_tokens=lens[number], padded_len=padded_len))
        if self._is_packed:
            return pack(sequences, row_len=self._plan.seq_len)
        return [(sequence,) for sequence in sequences]

    def _num_scheduled(self, num_micro_batches: int, *, is_training: bool) -> int:
        """Return the next number of micro-batches, at least 1, that the schedule takes."""
        number = max(1, num_micro_batches)
        if is_training:
            while any(schedule_problems(self._plan.layout, num_micro_batches=number, is_compiled=False)):
                number += 1
        return number

    def _row_len(self, rows: Sequence[Row]) -> int:
        longest = max(map(_padded_row_len, rows))
        return min(self._plan.seq_len, _rounded(max(longest, 1), self._row_multiple))

    def _filled(self, row: Row, row_len: int) -> Row:
        """Return the row with padding up to its end: behind the one sample, or as a sequence of its own."""
        if not self._is_packed and row:
            (only,) = row
            return (replace(only, padded_len=row_len),)
        num_missing = row_len - _padded_row_len(row)
        if num_missing == 0:
            return row
        return (*row, PackedSequence(sample=None, num_tokens=0, padded_len=num_missing))

    def _cut(self, rows: Sequence[Row], *, samples: StepSamples) -> PackedIndex:
        width = samples.tokens_NS.shape[1]
        past_last = samples.tokens_NS.numel()
        sources = []
        targets = []
        for row in rows:
            for sequence in row:
                positions_L = local_positions(sequence.padded_len, mesh=self._mesh)
                first = 0 if sequence.sample is None else sequence.sample * width
                sources.append(torch.where(positions_L < sequence.num_tokens, first + positions_L, past_last))
                targets.append(torch.where(positions_L + 1 < sequence.num_tokens, first + positions_L + 1, past_last))
        index_2BL = torch.stack([torch.cat(sources), torch.cat(targets)]).view(2, len(rows), -1).to(self._device)
        return PackedIndex(source_BL=index_2BL[0], target_BL=index_2BL[1], tables=self._tables_of(rows))

    def _tables_of(self, rows: Sequence[Row]) -> PositionTables:
        if self._is_packed:
            (row,) = rows
            positions = [local_positions(sequence.padded_len, mesh=self._mesh) for sequence in row]
            lens = tuple(map(len, positions))
            return gather_positions(self._tables, torch.cat(positions).to(self._device), lens=lens)
        row_len = rows[0][0].padded_len
        if self._mesh.cp is None:
            return first_positions(self._tables, row_len)
        return self._kept_local_tables(row_len)

    def _local_tables(self, row_len: int) -> PositionTables:
        """Return the tables of this rank's positions in a padded row, under context parallelism."""
        return gather_positions(self._tables, local_positions(row_len, mesh=self._mesh).to(self._device))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedIndex:
    """Index of one micro-batch's tokens in the flattened samples.

    Attributes:
        source_BL: Index of the token at each position; one past the last for padding.
        target_BL: Index of the next token, which the position predicts; one past the last if there is none.
        tables: Position tables of the layers, at these positions.
    """

    source_BL: Tensor
    target_BL: Tensor
    tables: PositionTables


def micro_batches(
    cuts: Sequence[PackedIndex], *, samples: StepSamples, terms_NSK: Tensor | None = None
) -> list[MicroBatch]:
    """Return the model's inputs; terms are those of the predicted tokens."""
    # Padding looks up the index past the last, which holds zeros.
    tokens = F.pad(samples.tokens_NS.flatten(), (0, 1))
    terms = None
    if terms_NSK is not None:
        terms = F.pad(terms_NSK.flatten(0, 1), (0, 0, 0, 1))
    batches = []
    for cut in cuts:
        terms_BLK = None if terms is None else terms[cut.target_BL]
        batches.append(MicroBatch(tokens[cut.source_BL], tokens[cut.target_BL][..., None], terms_BLK, cut.tables))
    return batches


def _deal(lens: Mapping[int, int], *, num_ranks: int) -> list[list[int]]:
    """Distribute samples over ranks, the longest first, back and forth: equal numbers (or one more) and lengths.

    Args:
        lens: Tokens of each sample, by its number.
        num_ranks: Shares.

    Returns:
        The numbers of each rank, the longest sample first.
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    for turn, number in enumerate(sorted(lens, key=lambda number: (-lens[number], number))):
        lap, rank = divmod(turn, num_ranks)
        if lap % 2 == 1:  # backwards
            rank = num_ranks - 1 - rank
        shares[rank].append(number)
    return shares


def pack(sequences: Sequence[PackedSequence], *, row_len: int) -> list[Row]:
    """Put each sequence, in the order given, into the first row with enough free length."""
    rows: list[list[PackedSequence]] = []
    free_lens: list[int] = []
    for sequence in sequences:
        number = 0
        while number < len(rows) and free_lens[number] < sequence.padded_len:
            number += 1
        if number == len(rows):
            rows.append([])
            free_lens.append(row_len)
        rows[number].append(sequence)
        free_lens[number] -= sequence.padded_len
    return list(map(tuple, rows))


def _padded_row_len(row: Row) -> int:
    return sum(sequence.padded_len for sequence in row)


def _multiples(plan: Plan) -> tuple[int, int]:
    """Return the multiples that the lengths of a row, and of a sample in a packed row, are rounded up to."""
    layout = plan.layout
    context = 2 * layout.cp if layout.cp > 1 else 1
    sequence = 1
    if layout.tp > 1 and layout.sequence_parallel:
        sequence = layout.tp * layout.cp
    engine = 1
    if plan.precision.needs_transformer_engine:
        engine = _ENGINE_TOKENS * layout.cp
    return math.lcm(context, sequence, engine), context


def _rounded(number: int, multiple: int) -> int:
    """Return the number rounded up to a multiple."""
    return -(-number // multiple) * multiple
