"""What a rank leaves in the run directory."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from pytest_nemoperf.native.train import StepOutcome
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import (
    PRETRAIN_PHASES,
    PROGRESS_FILE,
    Progress,
    RankError,
    StepRecord,
    error_file,
    to_json,
    to_json_line,
)

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


def gather_steps(outcomes: Sequence[StepOutcome], *, peak_bytes: int, device: torch.device) -> list[list[list[float]]]:
    """Return every rank's row of every step, ``[rank][step][column]``; all ranks must call it.

    Columns are step time, loss, gradient norm, peak memory and the phases. One collective after the last
    step; float64 holds a count of bytes exactly. The peak is the last step's, and 0 in the rows before: asking
    the system for it costs more than all else that is recorded of a step, so it is asked once.
    """
    peaks = [0] * (len(outcomes) - 1) + [peak_bytes]
    rows = [
        [outcome.timing.step_time_sec, outcome.loss, outcome.grad_norm, peak, *outcome.timing.phases.values()]
        for outcome, peak in zip(outcomes, peaks, strict=True)
    ]
    local = torch.tensor(rows, dtype=torch.float64, device=device)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    return [rank_rows.tolist() for rank_rows in gathered]


def step_records(plan: Plan, *, gathered: Sequence[Sequence[Sequence[float]]]) -> Iterable[StepRecord]:
    """Yield one record a step from what gather_steps returned.

    The slowest rank gives the step's time and phases. The loss is the mean over the ranks that know one, those of
    the last pipeline stage: they trained on equally many tokens.
    """
    num_with_loss = plan.layout.gpus // plan.layout.pp
    for step, ranks in enumerate(zip(*gathered, strict=True)):
        slowest = max(ranks, key=lambda row: row[0])
        yield StepRecord(
            step=step,
            step_time_sec=slowest[0],
            tokens=plan.tokens_per_step,
            phases=_phases(slowest[4:], is_pipeline=plan.layout.pp > 1),
            flops=plan.tokens_per_step * plan.flops_per_token,
            loss=sum(row[1] for row in ranks[-num_with_loss:]) / num_with_loss,
            grad_norm=ranks[0][2],
            peak_memory_bytes=int(max(row[3] for row in ranks)) or None,
            rank_times_sec=tuple(row[0] for row in ranks),
        )


def _phases(seconds: Sequence[float], *, is_pipeline: bool) -> dict[str, float]:
    """Return seconds by phase; without a pipeline there is no wait for its stages to be recorded as nothing."""
    pairs = zip(PRETRAIN_PHASES, seconds, strict=True)
    return {phase: spent for phase, spent in pairs if is_pipeline or phase != "pipeline_wait"}
