"""Every parallel axis over several ranks on one GPU, against one rank; and ranks that wait for one that failed.

NCCL refuses two ranks on one device unless they seem to be on different hosts: each is told by NCCL_HOSTID that it has
one of its own. They then talk through the network stack, so that times say nothing; the collectives, their order and
their results are real.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from gpu_check.findings import Findings, Table
from gpu_check.programs.forked import Ended, free_port, run_forked, tail
from gpu_check.programs.parts import keep_row, kept_row
from gpu_check.programs.program import Context, run_program
from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.json_codec import parse_json, to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.native.phases import RankStep
from pytest_nemoperf.native.rank import preload
from pytest_nemoperf.native.rank.entry import StepRunner, main, make_native_trainer
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE

if TYPE_CHECKING:
    import torch  # at run time preload imports it, which sees to it that no thread is started

del preload  # imported for what it imports: ranks are forked from this process

_STEPS: Final = 4
_WARMUP_STEPS: Final = 2
_ALLOWED: Final = 1e-5
"""Relative, of losses and on a GPU of gradient norms: as the tests of the axes allow. An H100 was within 2.3e-7."""
_ALLOWED_NORM_ON_CPU: Final = 3e-5
"""A CPU adds the squares of a matrix one after another in each lane of its vectors: the norm of the largest gradient
here, of 1,024 x 128 in fp32, was up to 7.4e-6 off its norm in fp64, and that of its halves half as much. So layouts
that cut matrices (fsdp, tp) are as far off one rank, which is the one that errs; others stay within 2e-7. Half as many
lanes double it, and as much again is left. A gradient that lacks a rank's part is off by percents.
"""
_CASE_SEC: Final = 60.0
_FAILING_STEP: Final = 3
_PEERS_SEC: Final = 20.0
"""Time that the others may take to end after a rank failed."""
_SINGLE: Final = "single"
CPU_RANKS: Final = 64
"""Ranks of a host as its cores are dealt in a dry run: one thread each, or operators this small wait for threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One layout of a model.

    Attributes:
        name: Name in the table.
        layout: The layout.
        micro_batch_size: Sequences of a micro-batch.
    """

    name: str
    layout: Layout
    micro_batch_size: int = 2


def dense_model() -> ModelConfig:
    """Return the smallest dense model in four layers, enough for two chunks on each of two stages."""
    return replace(find_model("llama-tiny"), name="llama-tiny-4-layers", num_layers=4)


_DENSE: Final = (
    Case(name=_SINGLE, layout=Layout(gpus=1)),
    Case(name="fsdp2", layout=Layout(gpus=2, dp_shard=2)),
    Case(name="tp2", layout=Layout(gpus=2, tp=2)),
    Case(name="pp2", layout=Layout(gpus=2, pp=2)),
    Case(name="cp2", layout=Layout(gpus=2, cp=2)),
    Case(name="fsdp2tp2", layout=Layout(gpus=4, dp_shard=2, tp=2)),
    Case(name="pp2 zero bubble", layout=Layout(gpus=2, pp=2, pp_schedule="zero_bubble")),
    Case(name="pp2 interleaved", layout=Layout(gpus=2, pp=2, vp=2)),
    Case(name="ddp2", layout=Layout(gpus=2, dp_replicate=2)),
)
_MIXTURE: Final = (
    Case(name=_SINGLE, layout=Layout(gpus=1)),
    Case(name="ep2", layout=Layout(gpus=2, dp_replicate=2, ep=2)),
    Case(name="fsdp2ep2", layout=Layout(gpus=2, dp_shard=2, ep=2)),
)
_FAILING: Final = Case(name="fsdp2 of which rank 1 fails", layout=Layout(gpus=2, dp_shard=2))
_WAYS: Final = ("raises", "is killed")


def examine(context: Context, findings: Findings) -> None:
    """Run every case, dense ones first, and the failing one after them."""
    table = findings.table(
        "Losses and gradient norms against one rank, largest relative difference",
        ["model", "layout", "ranks", "loss", "gradient norm", "seconds"],
    )
    _compare(context, findings, table, model=dense_model(), cases=_DENSE)
    for way in _WAYS:
        _check_failure(context, findings, way=way)
    _compare(context, findings, table, model=find_model("qwen3-30b-a3b-twin"), cases=_MIXTURE)


def _compare(
    context: Context, findings: Findings, table: Table, *, model: ModelConfig, cases: tuple[Case, ...]
) -> None:
    reference: list[tuple[float, float]] = []
    allowed_norm = _ALLOWED_NORM_ON_CPU if context.is_cpu else _ALLOWED
    for case in cases:
        folder = context.folder / f"{model.name}-{case.name.replace(' ', '-')}"
        try:
            plan = _plan(context, model=model, case=case)
        except NemoPerfError as error:
            findings.problems.append(f"{case.name} of {model.name} can't be planned: {error}")
            continue
        row = kept_row(folder, work=to_json(plan))
        if row is not None:
            table.add(*row)
            if case.name == _SINGLE:
                reference = _losses(folder)
            continue
        print(f"{case.name} of {model.name}", flush=True)  # progress of the check shows a log's last line
        ends = _run(plan, folder=folder, system_has_gpu=not context.is_cpu)
        failed = [number for number, end in enumerate(ends) if end.status != 0]
        if failed:
            findings.problems.append(_failure_text(case, model=model, ends=ends, failed=failed, folder=folder))
            continue
        values = _losses(folder)
        if case.name == _SINGLE:
            reference = values
        elif not reference:
            findings.problems.append(f"{case.name} of {model.name} has nothing to compare with: one rank failed")
            continue
        loss, grad_norm = _differences(values, reference)
        seconds = max(end.seconds for end in ends)
        row = [model.name, case.name, str(len(ends)), f"{loss:.1e}", f"{grad_norm:.1e}", f"{seconds:.1f}"]
        table.add(*row)
        if loss <= _ALLOWED and grad_norm <= allowed_norm:
            keep_row(folder, work=to_json(plan), row=row)
        else:
            findings.problems.append(
                f"{case.name} of {model.name}: loss {loss:.1e} and gradient norm {grad_norm:.1e} off one rank's, "
                f"allowed {_ALLOWED:.0e} and {allowed_norm:.0e}"
            )
        findings.write(context.folder)


def _check_failure(context: Context, findings: Findings, *, way: str) -> None:
    """Check that the rank that waits for one that failed ends by itself; nobody ends it here."""
    folder = context.folder / f"rank-1-{way.replace(' ', '-')}"
    plan = _plan(context, model=dense_model(), case=_FAILING)
    make_trainer = partial(make_failing_trainer, way=way)
    print(f"two ranks, of which rank 1 {way}", flush=True)
    waiting, failing = _run(plan, folder=folder, system_has_gpu=not context.is_cpu, make_trainer=make_trainer)
    table = findings.table(f"Two ranks, of which rank 1 {way} in step {_FAILING_STEP}", ["rank", "end", "at s"])
    table.add("0", _end_text(waiting), f"{waiting.seconds:.1f}")
    table.add("1", _end_text(failing), f"{failing.seconds:.1f}")
    findings.problems.extend(failure_problems(waiting, failing=failing, way=way, folder=folder))
    findings.write(context.folder)


def failure_problems(waiting: Ended, *, failing: Ended, way: str, folder: Path) -> list[str]:
    """Return what is wrong about the ends of a rank that failed and of the one that waited for it."""
    expected = -signal.SIGKILL if way == _WAYS[1] else 1
    if failing.status != expected:
        return [f"rank 1, which {way}, should end with {expected}: {_end_text(failing)}; see {folder}"]
    waited_sec = waiting.seconds - failing.seconds
    if waiting.status is None or waited_sec > _PEERS_SEC:
        return [f"rank 0 hung for {waited_sec:.0f} s after rank 1 {way}, allowed {_PEERS_SEC:.0f} s; see {folder}"]
    if waiting.status == 0:
        return [f"rank 0 ended with 0 although rank 1 {way}; see {folder}"]
    return []


def _end_text(end: Ended) -> str:
    return f"ended at the limit of {_CASE_SEC:.0f} s" if end.status is None else f"exit status {end.status}"


class FailingRunner:
    """Steps of the native engine, in one of which the rank fails."""

    def __init__(self, inner: StepRunner, *, way: str) -> None:
        self._inner = inner
        self._way = way

    def step(self, number: int) -> RankStep:
        """Run a step, or fail."""
        if number == _FAILING_STEP:
            if self._way == _WAYS[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("this rank fails on purpose")
        return self._inner.step(number)


def make_failing_trainer(plan: Plan, *, rank: int, device: torch.device, way: str) -> StepRunner:
    """Build a rank's part of a run, of which rank 1 fails."""
    trainer = make_native_trainer(plan, rank=rank, device=device)
    return FailingRunner(trainer, way=way) if rank == 1 else trainer


def _plan(context: Context, *, model: ModelConfig, case: Case) -> Plan:
    recipe = Recipe(
        model=model,
        layouts={context.system: case.layout},
        seq_len=128,
        global_batch_size=8,
        micro_batch_size=case.micro_batch_size,
        precision=Precision.FP32,
        steps=_STEPS,
        warmup_steps=_WARMUP_STEPS,
    )
    return resolve(recipe, system=find_system(context.system))


def _run(plan: Plan, *, folder: Path, system_has_gpu: bool, make_trainer: object = None) -> list[Ended]:
    """Run a plan's ranks in a folder, and return their ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()
    (folder / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
    num_ranks = plan.layout.total_gpus
    port = free_port()
    environments = [
        rank_environment(rank, num_ranks=num_ranks, port=port, folder=folder, shares_gpu=system_has_gpu)
        for rank in range(num_ranks)
    ]
    logs = [folder / f"rank{rank}.log" for rank in range(num_ranks)]
    run = partial(main, make_trainer)  # type: ignore[arg-type]  # a builder, or None
    return run_forked(run, environments=environments, logs=logs, limit_sec=_CASE_SEC)


def rank_environment(rank: int, *, num_ranks: int, port: int, folder: Path, shares_gpu: bool) -> Mapping[str, str]:
    """Return the variables of a rank; of ranks on one GPU each has a host of its own."""
    environment = {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": "0" if shares_gpu else str(rank),
        "LOCAL_WORLD_SIZE": "1" if shares_gpu else str(CPU_RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NEMOPERF_RUN_DIR": str(folder),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if shares_gpu:
        environment |= {
            "NCCL_HOSTID": f"host{rank}",
            "NCCL_SOCKET_IFNAME": "lo",
            "NCCL_IB_DISABLE": "1",
            # cuDNN makes a plan for each shape, which takes longer than these steps.
            "TORCH_CUDNN_SDPA_DEPRIORITIZED": "1",
        }
    return MappingProxyType(environment)


def _losses(folder: Path) -> list[tuple[float, float]]:
    """Return loss and gradient norm of each step."""
    values = []
    for line in (folder / STEPS_FILE).read_text(encoding="utf-8").splitlines():
        record = parse_json(line)
        values.append((record["loss"], record["grad_norm"]))
    return values


def _differences(values: list[tuple[float, float]], reference: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the largest relative differences of losses and of gradient norms."""
    losses = []
    grad_norms = []
    for (loss, grad_norm), (its_loss, its_grad_norm) in zip(values, reference, strict=True):
        losses.append(abs(loss / its_loss - 1))
        grad_norms.append(abs(grad_norm / its_grad_norm - 1))
    return max(losses), max(grad_norms)


def _failure_text(case: Case, *, model: ModelConfig, ends: list[Ended], failed: list[int], folder: Path) -> str:
    """Return a sentence on a case whose ranks failed, with the log of the one that failed first."""
    first = min(failed, key=lambda number: ends[number].seconds)
    status = ends[first].status
    reason = f"was killed after {_CASE_SEC:.0f} s" if status is None else f"ended with {status}"
    return f"{case.name} of {model.name}: rank {first} {reason}:\n{tail(folder / f'rank{first}.log')}"


if __name__ == "__main__":
    sys.exit(run_program(examine))
