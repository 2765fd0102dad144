"""Cost of recording a training step: each part in microseconds, then real steps with and without it.

The parts are timed twice: called over and over, as microbenchmarks do, and once after each real step, when the
step has driven their code and data out of the processor's caches. The second is the cost of a real step.

The real steps run in short blocks of three arms in turn, in one process with one model: with everything that
the engine records, bare, and bare once more. The two bare arms differ by chance alone: that much is noise.

``python benchmarks/recording.py [--rounds N]``
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.distributed as dist
from tables import machine_line, markdown_table, median_interval, ratios, spread, timed
from torch.autograd import Variable
from torch.distributed import HashStore  # type: ignore[attr-defined]  # public, but not in __all__

from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.device import peak_memory_bytes, tune_host_memory
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.phases import PhaseClock, RankStep
from pytest_nemoperf.native.rank.output import (
    _PROGRESS_INTERVAL_SEC,  # how often progress is written is part of its cost
    ProgressWriter,
    gather_steps,
    step_records,
)
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PRETRAIN_PHASES, STEPS_FILE

CPU = torch.device("cpu")
CALLS_PER_BATCH = 200
STEP_SEC = 5e-3
GOAL_US = 10.0
STEPS_PER_BLOCK = 10
SETTLING_STEPS = 50
ARMS = ("recorded", "bare", "bare again")
TIMES = ("step ms, as judged", "wall ms, with what is between steps", "CPU ms of that")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One action that records a step.

    Attributes:
        name: For people.
        when: Its time in the run, for people.
        call: Does it once.
        without: Baseline of call without the action; None if call does nothing else.
        share: Calls a step.
        warm_us: Microseconds per step in a tight loop, one entry a batch.
        cold_us: Microseconds per step right after a real step.
    """

    name: str
    when: str
    call: Callable[[], object]
    without: Callable[[], object] | None = None
    share: float = 1.0
    warm_us: list[float] = field(default_factory=list)
    cold_us: list[float] = field(default_factory=list)


class WatchedClock(PhaseClock):
    """The engine's clock; its recording can be switched between steps, and it times itself."""

    cost_us = 0.0

    def switch(self, *, is_recording: bool) -> None:
        """Record phases from the next step on, or stop doing so."""
        self._is_recording = is_recording

    def start(self) -> None:
        """Begin a step and the sum of the clock's own time in it."""
        begin = time.perf_counter()
        super().start()
        self.cost_us = (time.perf_counter() - begin) * 1e6

    def mark(self, phase: str) -> None:
        """End a phase."""
        begin = time.perf_counter()
        super().mark(phase)
        self.cost_us += (time.perf_counter() - begin) * 1e6

    def stop(self) -> RankStep:
        """End the step."""
        begin = time.perf_counter()
        step = super().stop()
        self.cost_us += (time.perf_counter() - begin) * 1e6
        return step


def make_plan() -> Plan:
    """Return a single-process plan with steps of about 5 ms on one core."""
    recipe = Recipe(
        model="llama-tiny",
        layouts={"cpu": Layout(gpus=1)},
        seq_len=64,
        global_batch_size=1,
        precision=Precision.FP32,
    )
    return resolve(recipe, system=find_system("cpu"))


def make_trainer(plan: Plan, *, clock: PhaseClock) -> Trainer:
    """Return a trainer after its first, slow steps."""
    data = SyntheticTokens(plan, dp_rank=0, device=CPU)
    mesh = RankMesh()
    chunks = parallelize(plan, mesh=mesh, device=CPU)
    trainer = Trainer(plan, chunks=chunks, mesh=mesh, data=data, clock=clock)
    for number in range(SETTLING_STEPS):
        trainer.step(number)
    return trainer


def call_clock(clock: PhaseClock) -> RankStep:
    """Call a clock as a step of several ranks without a pipeline does: a mark for each phase."""
    clock.start()
    for phase in PRETRAIN_PHASES:
        if phase != "pipeline_wait":
            clock.mark(phase)
    return clock.stop()


def backward_of_scalar(*, is_marked: bool) -> Callable[[], None]:
    """Return a backward pass of a scalar, with or without the mark at its end that a trainer of several ranks sets."""
    weight = torch.ones((), requires_grad=True)
    clock = PhaseClock(is_recording=False)  # the mark itself is the clock's cost

    def mark_at_end(grad: torch.Tensor) -> None:
        del grad  # torch hands it to every hook
        Variable._execution_engine.queue_callback(lambda: clock.mark("backward"))  # noqa: SLF001 (as the trainer)

    def run() -> None:
        loss = weight * 2
        if is_marked:
            loss.register_hook(mark_at_end)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss.backward()  # type: ignore[no-untyped-call]  # as above

    return run


def make_parts(run_dir: Path) -> list[Part]:
    """Return the parts of recording while steps run; the clock comes first."""
    clock = PhaseClock()
    loss = torch.ones(())
    norm = torch.ones(())
    step = call_clock(clock)
    progress = ProgressWriter(run_dir, last_step=-1)
    always = ProgressWriter(run_dir, last_step=0)
    lines_per_step = STEP_SEC / _PROGRESS_INTERVAL_SEC
    return [
        Part(name="clock: start, a mark a phase, stop", when="in the step", call=lambda: call_clock(clock)),
        Part(
            name="end of backward marked by autograd (several ranks)",
            when="in the step",
            call=backward_of_scalar(is_marked=True),
            without=backward_of_scalar(is_marked=False),
        ),
        Part(
            name="loss and gradient norm read, step kept",
            when="between steps",
            call=lambda: replace(step, loss=loss.item(), grad_norm=norm.item()),
        ),
        Part(
            name="progress: is a line due?",
            when="between steps",
            call=lambda: progress.step_done(1, step_time_sec=STEP_SEC),
        ),
        Part(
            name=f"progress: a line, one in {1 / lines_per_step:.0f} steps of 5 ms",
            when="between steps",
            call=lambda: always.step_done(0, step_time_sec=STEP_SEC),
            share=lines_per_step,
        ),
    ]


def time_warm(call: Callable[[], object]) -> float:
    """Return the mean microseconds of a call in one batch."""
    return 1e6 * timed(call, repeats=CALLS_PER_BATCH)


def time_cold(call: Callable[[], object], *, trainer: Trainer) -> float:
    """Return the microseconds of a call right after a step."""
    trainer.step(SETTLING_STEPS)
    return 1e6 * timed(call)


def measure_parts(plan: Plan, *, run_dir: Path, rounds: int) -> list[Part]:
    """Return the parts with their costs; they take turns, round by round."""
    parts = make_parts(run_dir)
    for _ in range(rounds):
        for part in parts:
            rest = time_warm(part.without) if part.without else 0.0
            part.warm_us.append(part.share * (time_warm(part.call) - rest))
    clock = WatchedClock()
    trainer = make_trainer(plan, clock=clock)
    for _ in range(rounds):
        for part in parts[1:]:
            rest = time_cold(part.without, trainer=trainer) if part.without else 0.0
            part.cold_us.append(part.share * (time_cold(part.call, trainer=trainer) - rest))
        parts[0].cold_us.append(clock.cost_us)
    return parts


def time_records(plan: Plan, *, run_dir: Path) -> float:
    """Return microseconds per step of gathering and writing the records of a batch of steps."""
    step = replace(call_clock(PhaseClock()), loss=1.0, grad_norm=1.0)
    start = time.perf_counter()
    gathered = gather_steps([step] * CALLS_PER_BATCH, peak_bytes=peak_memory_bytes(CPU), device=CPU)
    lines = "".join(to_json_line(record) for record in step_records(plan, gathered=gathered))
    (run_dir / STEPS_FILE).write_text(lines, encoding="utf-8")
    return (time.perf_counter() - start) / CALLS_PER_BATCH * 1e6


def show_parts(parts: list[Part], *, after_us: list[float]) -> None:
    """Print the parts and their sums."""
    rows = []
    warm_us = [0.0] * len(after_us)
    cold_us = [0.0] * len(after_us)
    for part in parts:
        rows.append([part.name, part.when, spread(part.warm_us), spread(part.cold_us)])
        for number in range(len(after_us)):
            warm_us[number] += part.warm_us[number]
            cold_us[number] += part.cold_us[number]
    rows.append([f"**sum while steps run** (goal {GOAL_US:.0f})", "", spread(warm_us), spread(cold_us)])
    rows.append(["peak memory, gathering and writing, by step", "after the last", spread(after_us), "-"])
    print(markdown_table(["recorded", "when", "us in a loop: median (min to max)", "us after a step"], rows=rows))
    warm_share = 1e-6 * statistics.median(warm_us) / STEP_SEC
    cold_share = 1e-6 * statistics.median(cold_us) / STEP_SEC
    print(f"\nThe sums are {warm_share:.2%} and {cold_share:.2%} of a step of 5 ms.\n")


def run_block(
    trainer: Trainer, *, clock: WatchedClock, progress: ProgressWriter | None, first_step: int
) -> tuple[float, ...]:
    """Return a block's median times in ms, in the order of TIMES; all is recorded if there is progress."""
    clock.switch(is_recording=progress is not None)
    steps = []
    walls = []
    cpus = []
    for number in range(first_step, first_step + STEPS_PER_BLOCK):
        wall = time.perf_counter()
        cpu = time.process_time()
        step = trainer.step(number)
        if progress is not None:
            progress.step_done(number, step_time_sec=step.step_time_sec)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        steps.append(step.step_time_sec)
        gc.collect()  # between steps, as the engine does, and outside the comparison
    return 1e3 * statistics.median(steps), 1e3 * statistics.median(walls), 1e3 * statistics.median(cpus)


def measure_steps(plan: Plan, *, run_dir: Path, rounds: int) -> dict[str, list[tuple[float, ...]]]:
    """Return times of each arm, block by block; every order of the arms gets its turn."""
    clock = WatchedClock()
    trainer = make_trainer(plan, clock=clock)
    progress = ProgressWriter(run_dir, last_step=-1)
    gc.collect()
    gc.freeze()
    gc.disable()
    blocks: dict[str, list[tuple[float, ...]]] = {arm: [] for arm in ARMS}
    for number, order in zip(range(rounds), itertools.cycle(itertools.permutations(ARMS)), strict=False):
        first_step = SETTLING_STEPS + number * STEPS_PER_BLOCK
        writers = {"recorded": progress, "bare": None, "bare again": None}
        for arm in order:
            blocks[arm].append(run_block(trainer, clock=clock, progress=writers[arm], first_step=first_step))
    gc.enable()
    return blocks


def show_steps(blocks: dict[str, list[tuple[float, ...]]]) -> None:
    """Print each arm's step time, and its ratio to the bare steps of the same round."""
    rows = []
    for arm in ARMS:
        row = [arm]
        for own, bare in zip(zip(*blocks[arm], strict=True), zip(*blocks["bare"], strict=True), strict=True):
            row.append(spread(own))
            if arm == "bare":
                row.append("-")
            else:
                row.append(excess(own, bare=bare))
        rows.append(row)
    head = ["steps"]
    for name in TIMES:
        head += [name, "against bare (95% interval)"]
    print(markdown_table(head, rows=rows))


def excess(own: Sequence[float], *, bare: Sequence[float]) -> str:
    """Return the excess over bare steps, in percent: median over rounds and its interval."""
    slowdowns = ratios(own, to=bare)
    median = 100 * (statistics.median(slowdowns) - 1)
    low, high = median_interval(slowdowns)
    return f"{median:+.2f}% ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})"


def main() -> None:
    """Measure parts and steps, and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=180, help="batches per part, and blocks of steps per arm")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)  # one core is quieter than all of them
    tune_host_memory()
    dist.init_process_group("gloo", rank=0, world_size=1, store=HashStore())
    plan = make_plan()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        parts = measure_parts(plan, run_dir=run_dir, rounds=rounds)
        show_parts(parts, after_us=[time_records(plan, run_dir=run_dir) for _ in range(rounds)])
        show_steps(measure_steps(plan, run_dir=run_dir, rounds=rounds))
    print(f"\n{rounds} rounds of {STEPS_PER_BLOCK} steps an arm, one thread. {machine_line()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
