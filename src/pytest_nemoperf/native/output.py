"""What a rank leaves in the run directory."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist

from pytest_nemoperf.jsontext import to_json, to_json_line
from pytest_nemoperf.native.train import StepOutcome
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import PRETRAIN_PHASES, PROGRESS_FILE, Progress, RankError, StepRecord, error_file

_PROGRESS_INTERVAL_SEC = 0.25


def write_atomic(path: Path, text: str) -> None:
    """Write a file that is there as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_error(run_dir: Path, *, rank: int, error: Exception) -> None:
    """Leave this rank's own error for whoever asks why the run failed."""
    text = to_json(
        RankError(
            rank=rank,
            time_sec=time.time(),
            message=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
            error_type=type(error).__name__,
        )
    )
    write_atomic(run_dir / error_file(rank), text)


class ProgressWriter:
    """Appends to ``progress.jsonl`` now and then; to be called between steps, never inside one.

    Args:
        run_dir: Of the run.
        last_step: Number of the last step, which is always written.
    """

    def __init__(self, run_dir: Path, *, last_step: int) -> None:
        self._path = run_dir / PROGRESS_FILE
        self._last_step = last_step
        self._next_time = 0.0

    def step_done(self, step: int, *, step_time_sec: float) -> None:
        """Write a line, unless the last one is very recent."""
        now = time.monotonic()
        if now < self._next_time and step != self._last_step:
            return
        self._next_time = now + _PROGRESS_INTERVAL_SEC
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_json_line(Progress(step=step, step_time_sec=step_time_sec)))


class RankRow(NamedTuple):
    """One step of one rank.

    Attributes:
        step_time_sec: Wall time.
        loss: 0 on a rank that knows none.
        grad_norm: Of the whole gradient.
        peak_bytes: Of memory; 0 before the last step.
        generation_sec: Time it generated responses.
        num_generated_tokens: Tokens its replica generated, in all rounds.
        num_slot_passes: Its replica's passes of the model, each counted once for every slot of the decoding batch.
        busy_sec: What of the wall time it worked, and did not wait for others.
        phases: Seconds by phase, in the order of the workload's phases.
    """

    step_time_sec: float
    loss: float
    grad_norm: float
    peak_bytes: float
    generation_sec: float
    num_generated_tokens: float
    num_slot_passes: float
    busy_sec: float
    phases: tuple[float, ...]

    @classmethod
    def of(cls, columns: Sequence[float]) -> RankRow:
        """Return the row that gather_steps sent as these numbers."""
        time, loss, grad_norm, peak, generation, tokens, slot_passes, busy, *phases = columns
        return cls(time, loss, grad_norm, peak, generation, tokens, slot_passes, busy, tuple(phases))


def gather_steps(outcomes: Sequence[StepOutcome], *, peak_bytes: int, device: torch.device) -> list[list[RankRow]]:
    """Return every rank's row of every step, ``[rank][step]``; all ranks must call it.

    One collective after the last step; float64 holds a count of bytes exactly. The peak is the last step's, and 0 in
    the rows before: asking the system for it costs more than all else that is recorded of a step, so it is asked once.
    """
    peaks = [0] * (len(outcomes) - 1) + [peak_bytes]
    rows = [
        [
            outcome.timing.step_time_sec,
            outcome.loss,
            outcome.grad_norm,
            peak,
            outcome.generation_sec,
            outcome.num_generated_tokens,
            outcome.num_slot_passes,
            outcome.timing.busy_sec,
            *outcome.timing.phases.values(),
        ]
        for outcome, peak in zip(outcomes, peaks, strict=True)
    ]
    local = torch.tensor(rows, dtype=torch.float64, device=device)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    return [[RankRow.of(columns) for columns in rank_rows.tolist()] for rank_rows in gathered]


def gather_hosts() -> tuple[str, ...]:
    """Return the name of every rank's host, by rank; all ranks must call it."""
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, platform.node())
    return tuple(str(name) for name in names)


def step_records(plan: Plan, *, gathered: Sequence[Sequence[RankRow]]) -> Iterable[StepRecord]:
    """Yield one record a step from what gather_steps returned.

    The slowest rank gives the step's time and phases. The loss is the mean over the ranks that know one, those of
    the last pipeline stage: they trained on equally many tokens.
    """
    num_with_loss = plan.layout.gpus // plan.layout.pp
    for step, ranks in enumerate(zip(*gathered, strict=True)):
        slowest = slowest_of(ranks)
        yield StepRecord(
            step=step,
            step_time_sec=slowest.step_time_sec,
            tokens=plan.tokens_per_step,
            phases=_phases(slowest.phases, is_pipeline=plan.layout.pp > 1),
            flops=plan.tokens_per_step * plan.flops_per_token,
            loss=sum(row.loss for row in ranks[-num_with_loss:]) / num_with_loss,
            grad_norm=ranks[0].grad_norm,
            peak_memory_bytes=largest_peak(ranks),
            rank_times_sec=tuple(row.step_time_sec for row in ranks),
            rank_busy_sec=tuple(row.busy_sec for row in ranks),
        )


def slowest_of(ranks: Sequence[RankRow]) -> RankRow:
    """Return the row of the rank that took longest."""
    return max(ranks, key=lambda row: row.step_time_sec)


def largest_peak(ranks: Sequence[RankRow]) -> int | None:
    """Return the largest peak memory of these ranks, bytes; None where it is not known."""
    return int(max(row.peak_bytes for row in ranks)) or None


def _phases(seconds: Sequence[float], *, is_pipeline: bool) -> dict[str, float]:
    """Return seconds by phase; without a pipeline there is no wait for its stages to be recorded as nothing."""
    pairs = zip(PRETRAIN_PHASES, seconds, strict=True)
    return {phase: spent for phase, spent in pairs if is_pipeline or phase != "pipeline_wait"}
