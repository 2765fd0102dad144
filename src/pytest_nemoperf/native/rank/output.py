"""Files that ranks write into the run directory: step records, progress, errors."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.native.phases import RankStep
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PROGRESS_FILE, Progress, RankError, StepRecord, error_file

_PROGRESS_INTERVAL_SEC = 0.25


def write_atomic(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: readers see the whole file or none."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:  # as of a full disk: nothing of it may stay
        with suppress(OSError):
            temporary.unlink()
        raise


def write_error(run_dir: Path, *, rank: int, error: Exception) -> None:
    """Write this rank's error file; on a full disk the traceback in the rank's log has to do."""
    text = to_json(
        RankError(
            rank=rank,
            time_sec=time.time(),
            message=f"{type(error).__name__}: {error}",
            traceback="".join(traceback.format_exception(error)),
            error_type=type(error).__name__,
        )
    )
    with suppress(OSError):
        write_atomic(run_dir / error_file(rank), text)


class ProgressWriter:
    """Appends to ``progress.jsonl`` at a limited rate; called between steps, never inside one.

    Args:
        run_dir: Directory of the run.
        last_step: Number of the last step, which is always written.
    """

    def __init__(self, run_dir: Path, *, last_step: int) -> None:
        self._path = run_dir / PROGRESS_FILE
        self._last_step = last_step
        self._next_time = 0.0

    def step_done(self, step: int, *, step_time_sec: float) -> None:
        """Write a line, unless the last one is very recent."""
        now = time.clock_gettime(time.CLOCK_MONOTONIC)  # the pytest process compares it with its own reading
        if now < self._next_time and step != self._last_step:
            return
        self._next_time = now + _PROGRESS_INTERVAL_SEC
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_json_line(Progress(step=step, step_time_sec=step_time_sec, ended_sec=now)))


def gather_steps(steps: Sequence[RankStep], *, peak_bytes: int, device: torch.device) -> list[list[RankStep]]:
    """Return every rank's steps, ``[rank][step]``; all ranks must call it, with equally many steps of the same phases.

    One collective after the last step; float64 holds a count of bytes exactly. The peak is in the last step only:
    reading it costs more than all other values of a step together.
    """
    last = replace(steps[-1], peak_bytes=peak_bytes)
    local_rows = [step.to_row() for step in [*steps[:-1], last]]
    local = torch.tensor(local_rows, dtype=torch.float64, device=device)
    gathered = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, local)
    from_row = partial(RankStep.from_row, phases=last.phases)
    return [list(map(from_row, rows.tolist())) for rows in gathered]


def gather_hosts() -> tuple[str, ...]:
    """Return the name of every rank's host, by rank; all ranks must call it."""
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, platform.node())
    return tuple(map(str, names))


def step_records(plan: Plan, *, gathered: Sequence[Sequence[RankStep]]) -> Iterable[StepRecord]:
    """Yield one record a step.

    The slowest rank gives the step's time and phases. The loss is the mean over the ranks of the last pipeline stage,
    which trained on equally many tokens.

    Args:
        plan: Plan of the run.
        gathered: From gather_steps.
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
            loss=sum(rank.loss for rank in ranks[-num_with_loss:]) / num_with_loss,
            grad_norm=ranks[0].grad_norm,
            peak_memory_bytes=largest_peak(ranks),
            rank_times_sec=tuple(rank.step_time_sec for rank in ranks),
            rank_busy_sec=tuple(rank.busy_sec for rank in ranks),
        )


def slowest_of(ranks: Sequence[RankStep]) -> RankStep:
    """Return the step of the rank that took longest."""
    return max(ranks, key=lambda rank: rank.step_time_sec)


def largest_peak(ranks: Sequence[RankStep]) -> int | None:
    """Return the largest peak memory of these ranks, bytes; None if not known."""
    peak_bytes = int(max(rank.peak_bytes for rank in ranks))
    return peak_bytes or None


def _phases(phases: Mapping[str, float], *, is_pipeline: bool) -> dict[str, float]:
    """Return seconds by phase, without ``pipeline_wait`` unless there is a pipeline."""
    recorded = dict(phases)
    if not is_pipeline:
        del recorded["pipeline_wait"]
    return recorded
