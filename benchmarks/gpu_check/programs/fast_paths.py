"""Fast paths that are off by default, each beside the default path: losses, times and memory, in turns."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from gpu_check.findings import Findings
from gpu_check.programs.forked import free_port, run_forked, tail
from gpu_check.programs.parts import keep_row, kept_row
from gpu_check.programs.program import Context, run_program
from gpu_check.programs.ranks import CPU_RANKS
from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.device import peak_memory_bytes, reset_peak_memory
from pytest_nemoperf.native.fast_paths import (
    CAST_WEIGHTS_ONCE,
    EXPANDABLE_SEGMENTS,
    FAST_PATHS,
    FAST_PATHS_VARIABLE,
    TF32,
    WINDOW_BANDS,
    FastPath,
)
from pytest_nemoperf.native.rank import preload
from pytest_nemoperf.native.rank.entry import join_ranks, make_native_trainer, read_environment
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

del preload  # imported for what it imports: turns are forked from this process

_GIB: Final = 2**30
_TURNS: Final = (False, True, False, True)
"""Off, on, off, on: a machine that changes its speed changes it for both."""
_TURN_SEC: Final = 60.0
_WARMUP_STEPS: Final = 2
_STEPS: Final = 8
_LEAST_GAIN: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Workload that shows a path.

    Attributes:
        on_gpu: Recipe on a GPU, but for layout and steps.
        on_cpu: Its stand-in.
        allowed: Largest relative difference of a step's loss.
    """

    on_gpu: dict[str, Any]
    on_cpu: dict[str, Any]
    allowed: float


_LLAMA: Final = {"model": "llama3.2-1b", "num_layers": 4, "seq_len": 4096, "global_batch_size": 8, "precision": "bf16"}
_TINY: Final = {"model": "llama-tiny", "seq_len": 64, "global_batch_size": 4, "micro_batch_size": 2}
WORKLOADS: Final = {
    CAST_WEIGHTS_ONCE: Beside(
        on_gpu={**_LLAMA, "micro_batch_size": 1}, on_cpu={**_TINY, "precision": "bf16"}, allowed=0.0
    ),
    WINDOW_BANDS: Beside(
        on_gpu={"model": "gemma3-1b", "num_layers": 6, "seq_len": 4096, "global_batch_size": 4, "micro_batch_size": 1},
        on_cpu={**_TINY, "model": "gemma3-1b-twin", "precision": "fp32"},
        allowed=1e-3,  # bf16 rounds to 8 bits, and a loss is a mean of thousands of tokens
    ),
    EXPANDABLE_SEGMENTS: Beside(
        on_gpu={**_LLAMA, "micro_batch_size": 2}, on_cpu={**_TINY, "precision": "fp32"}, allowed=0.0
    ),
    TF32: Beside(
        on_gpu={**_LLAMA, "precision": "fp32", "global_batch_size": 4, "micro_batch_size": 1},
        on_cpu={**_TINY, "precision": "fp32"},
        allowed=1e-3,  # TF32 rounds to 10 bits
    ),
}


def examine(context: Context, findings: Findings) -> None:
    """Run every path's workload in turns, and say which path may become the default."""
    table = findings.table(
        f"Turns off, on, off, on of {_STEPS} steps each; medians",
        ["fast path", "off ms", "on ms", "time %", "off GiB", "on GiB", "largest loss difference", "says"],
    )
    for path in FAST_PATHS:
        try:
            plan = _plan(context, WORKLOADS[path.name])
        except NemoPerfError as error:
            findings.problems.append(f"{path.name}: its workload can't be planned: {error}")
            continue
        folder = context.folder / path.name
        folder.mkdir(exist_ok=True)
        row = kept_row(folder, work=to_json(plan))
        if row is not None:
            table.add(*row)
            continue
        turns = []
        for number, is_on in enumerate(_TURNS):
            log = folder / f"turn-{number}.log"
            print(f"{path.name}, turn {number + 1} of {len(_TURNS)}", flush=True)
            turn = _run_turn(plan, path=path, is_on=is_on, log=log)
            if turn is None:
                state = "on" if is_on else "off"
                findings.problems.append(f"{path.name}, turn {number} ({state}) failed:\n{tail(log)}")
                break
            turns.append(turn)
        if len(turns) == len(_TURNS):
            row = [path.name, *_cells(turns, path=path, is_cpu=context.is_cpu)]
            table.add(*row)
            problems = _problems(turns, path=path, is_cpu=context.is_cpu)
            findings.problems.extend(problems)
            if not problems:
                keep_row(folder, work=to_json(plan), row=row)
        findings.write(context.folder)


def _plan(context: Context, workload: Beside) -> Plan:
    values = workload.on_cpu if context.is_cpu else workload.on_gpu
    recipe = Recipe(layouts={context.system: Layout(gpus=1)}, steps=_STEPS, warmup_steps=_WARMUP_STEPS, **values)
    return resolve(recipe, system=find_system(context.system))


def _run_turn(plan: Plan, *, path: FastPath, is_on: bool, log: Path) -> dict[str, Any] | None:
    """Run the steps in a process of their own, and return what it measured; None if it failed."""
    written = log.with_suffix(".json")
    written.unlink(missing_ok=True)
    log.unlink(missing_ok=True)
    environment = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": str(CPU_RANKS) if plan.device == "cpu" else "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "NEMOPERF_RUN_DIR": str(log.parent),
        FAST_PATHS_VARIABLE: path.name if is_on else "",
    }
    (end,) = run_forked(
        partial(take_turn, plan, written=written), environments=[environment], logs=[log], limit_sec=_TURN_SEC
    )
    if end.status != 0 or not written.exists():
        return None
    turn: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
    return turn


def take_turn(plan: Plan, *, written: Path) -> None:
    """Run a plan's steps in this process, and write their times and losses, and the peak of memory."""
    import torch  # not above: preload sees to it that no thread is started

    device = join_ranks(plan, env=read_environment())
    trainer = make_native_trainer(plan, rank=0, device=device)
    steps = []
    for number in range(plan.total_steps):
        if number == plan.warmup_steps:
            reset_peak_memory(device)
        steps.append(trainer.step(number))
    is_expandable = False
    reserved = peak_memory_bytes(device)
    if device.type == "cuda":
        is_expandable = any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())  # type: ignore[no-untyped-call]  # torch leaves it
        reserved = torch.cuda.max_memory_reserved(device)
    result = {
        "times_sec": [step.step_time_sec for step in steps[plan.warmup_steps :]],
        "losses": [step.loss for step in steps],
        "grad_norms": [step.grad_norm for step in steps],
        "reserved_bytes": reserved,
        "is_expandable": is_expandable,
    }
    written.write_text(json.dumps(result), encoding="utf-8")
    torch.distributed.destroy_process_group()


def _problems(turns: Sequence[dict[str, Any]], *, path: FastPath, is_cpu: bool) -> list[str]:
    problems = []
    allowed = WORKLOADS[path.name].allowed
    difference = _difference(turns)
    if not difference <= allowed:
        problems.append(f"{path.name}: losses differ by {difference:.1e}, allowed {allowed:.0e}")
    if path.name == EXPANDABLE_SEGMENTS and not is_cpu and not turns[1]["is_expandable"]:
        problems.append(f"{path.name}: no segment of the allocator is expandable, so the switch did nothing")
    return problems


def _difference(turns: Sequence[dict[str, Any]]) -> float:
    off, on = turns[0::2], turns[1::2]
    return largest_difference([turn["losses"] for turn in off], [turn["losses"] for turn in on])


def _cells(turns: Sequence[dict[str, Any]], *, path: FastPath, is_cpu: bool) -> list[str]:
    """Return the cells of a path's row behind its name."""
    off, on = turns[0::2], turns[1::2]
    difference = _difference(turns)
    off_sec = [statistics.median(turn["times_sec"]) for turn in off]
    on_sec = [statistics.median(turn["times_sec"]) for turn in on]
    off_bytes = max(turn["reserved_bytes"] for turn in off)
    on_bytes = max(turn["reserved_bytes"] for turn in on)
    ratio = statistics.median(on_sec) / statistics.median(off_sec)
    is_same = difference <= WORKLOADS[path.name].allowed
    return [
        f"{statistics.median(off_sec) * 1e3:.1f}",
        f"{statistics.median(on_sec) * 1e3:.1f}",
        f"{100 * (ratio - 1):+.1f}",
        f"{off_bytes / _GIB:.2f}",
        f"{on_bytes / _GIB:.2f}",
        f"{difference:.1e}",
        advice(off_sec, on_sec, is_same=is_same, saves_memory=on_bytes < off_bytes, is_cpu=is_cpu),
    ]


def advice(
    off_sec: Sequence[float], on_sec: Sequence[float], *, is_same: bool, saves_memory: bool, is_cpu: bool
) -> str:
    """Return whether a path may become the default, by the medians of its turns."""
    if not is_same:
        return "stays off: losses differ"
    if is_cpu:
        return "losses agree; a CPU says nothing of its speed on a GPU"
    if max(on_sec) <= min(off_sec) * (1 - _LEAST_GAIN):
        return "may become the default: every turn with it was faster"
    if min(on_sec) >= max(off_sec) * (1 + _LEAST_GAIN):
        return "stays off: slower"
    if saves_memory:
        return "stays off: no faster; less memory"
    return "stays off: no faster beyond the scatter of the turns"


def largest_difference(off: Sequence[Sequence[float]], on: Sequence[Sequence[float]]) -> float:
    """Return the largest relative difference between the losses of the same step."""
    differences = []
    for off_losses, on_losses in zip(off, on, strict=True):
        for off_loss, on_loss in zip(off_losses, on_losses, strict=True):
            differences.append(abs(on_loss / off_loss - 1))
    return max(differences)


if __name__ == "__main__":
    sys.exit(run_program(examine))
