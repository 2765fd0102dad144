"""Folder of a run's checkpoint inside the given one: checked before the launch, removed after it in any case."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import PlanError, os_error_text
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.recipes.memory_rules import native_rules
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import BYTES_PER_GIB, CHECKPOINT_METRICS

_PREFIX: Final = "nemoperf-checkpoint-"
_MARGIN: Final = 1.1
"""Space over the states themselves: metadata, and weights that several ranks keep and save each for itself."""
_LEAST_BYTES_PER_SEC: Final = 0.1 * BYTES_PER_GIB  # about a gigabit network
_START_SEC: Final = 30.0


def checkpoint_bytes(plan: Plan) -> int:
    """Return the size of a checkpoint of the native engine: fp32 weights and both moments of AdamW, each once."""
    rules = native_rules(plan)
    return num_parameters(plan.model) * (rules.weight + rules.master + rules.moments)


def checkpoint_limit_sec(plan: Plan) -> float:
    """Return the time that the checkpoints of a launch may take at most, on a folder that is far away."""
    num_passes = sum(metric.name in plan.extra_metrics for metric in CHECKPOINT_METRICS)
    return num_passes * (_START_SEC + checkpoint_bytes(plan) / _LEAST_BYTES_PER_SEC)


def check_checkpoint_folder(plan: Plan, *, folder: str) -> None:
    """Check, before a case is launched, that its checkpoint can be saved.

    Args:
        plan: Plan that asks for a checkpoint.
        folder: Folder that is given; empty for none.

    Raises:
        PlanError: If there is none, it takes no file, or has too little space.
    """
    asked = ", ".join(plan.extra_metrics)
    if not folder:
        raise PlanError(
            f"{plan.case}: extra_metrics={asked} saves a checkpoint, and no folder for it is given; name one with "
            "--perf-checkpoint-dir=DIR or ini perf_checkpoint_dir"
        )
    place = Path(folder)
    if not place.is_dir():
        raise PlanError(f"{plan.case}: there is no folder {place} for its checkpoint; make it, or name another one")
    try:
        with tempfile.TemporaryFile(dir=place):
            free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        raise PlanError(f"{plan.case}: no checkpoint can be saved in {place}: {os_error_text(error)}") from None
    needed_bytes = _MARGIN * checkpoint_bytes(plan)
    if needed_bytes > free_bytes:
        raise PlanError(
            f"{plan.case}: its checkpoint needs about {needed_bytes / BYTES_PER_GIB:,.3g} GiB, and {place} has "
            f"{free_bytes / BYTES_PER_GIB:,.3g} GiB free; free some, or name another folder with --perf-checkpoint-dir"
        )


@contextmanager
def own_checkpoint_folder(plan: Plan) -> Iterator[Plan]:
    """Context of a run with its own new folder for checkpoints; its end removes the folder, also after a Ctrl-C.

    Yields:
        The plan with that folder; as it is if it saves no checkpoint.

    Raises:
        OSError: If the folder can't be made.
    """
    if not plan.checkpoint_dir:
        yield plan
        return
    folder = tempfile.mkdtemp(prefix=_PREFIX, dir=plan.checkpoint_dir)
    try:
        yield replace(plan, checkpoint_dir=folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
