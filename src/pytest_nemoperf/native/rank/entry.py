"""One rank of a run: reads the plan, trains, writes records; see the contracts in records/step.py."""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, runtime_checkable

import torch
import torch.distributed as dist

from pytest_nemoperf.errors import LaunchError, LostRankError, PlanError
from pytest_nemoperf.json_codec import read_data, to_json, to_json_line
from pytest_nemoperf.native.device import (
    available_cores,
    device_name,
    environment,
    peak_memory_bytes,
    reset_peak_memory,
    tune_host_memory,
)
from pytest_nemoperf.native.fast_paths import TF32, enabled_fast_paths, fast_path_environment
from pytest_nemoperf.native.model.compiling import use_own_cache
from pytest_nemoperf.native.parallel.context_parallel import local_positions
from pytest_nemoperf.native.parallel.mesh import build_mesh, data_parallel_rank, group_timeout
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.phases import RankStep, phase_clock
from pytest_nemoperf.native.rank.output import (
    ProgressWriter,
    gather_hosts,
    gather_steps,
    step_records,
    write_atomic,
    write_error,
)
from pytest_nemoperf.native.rank.peers import Peers
from pytest_nemoperf.native.rank.profiling import StepProfiler
from pytest_nemoperf.native.rank.rendezvous import join_group, open_store
from pytest_nemoperf.native.rank.rl_output import rl_step_records
from pytest_nemoperf.native.rank.turns import steps_in_turn
from pytest_nemoperf.native.rank.yardstick import gather_yardsticks, has_yardstick, measure_yardstick
from pytest_nemoperf.native.rl.learn.rollout_facts import RolloutFacts
from pytest_nemoperf.native.rl.loop import make_rl_rank
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.native.train.optimizer_step import Trained
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.collective import Collective
from pytest_nemoperf.records.launch_times import CheckpointTimes
from pytest_nemoperf.records.step import PLAN_FILE, RESULT_FILE, STEPS_FILE, RunResult
from pytest_nemoperf.records.yardstick import Yardstick

_AFTER_LOST_SEC = 0.5
"""Time that a rank lives on after the one that it has lost: whoever started them takes the first end for the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankEnvironment:
    """Rank, world size and run directory, from the environment that the launcher set.

    Attributes:
        run_dir: Directory of the plan and the ranks' files.
        rank: Rank in the run.
        world_size: Ranks of the run.
        local_rank: Rank on this host.
        local_world_size: Ranks on this host.
    """

    run_dir: Path
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


class StepRunner(Protocol):
    """Pre-training of a plan on this rank, built and ready: the native engine's Trainer, or another framework's."""

    def step(self, number: int) -> RankStep:
        """Run the step of a number, from 0; all ranks enter it together."""
        ...


@runtime_checkable
class Explained(Protocol):
    """StepRunner with choices of its own that affect the speed; they join the environment of the run."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Choices by name."""
        ...


@runtime_checkable
class Checkpointed(Protocol):
    """StepRunner with models that can be saved as a checkpoint."""

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Models that this rank trains, with their optimizers."""
        ...


class MakeStepRunner(Protocol):
    """Builds this rank's part of a pre-training run."""

    def __call__(self, plan: Plan, *, rank: int, device: torch.device) -> StepRunner:
        """Return it; the ranks have joined their default process group."""
        ...


def main(make_trainer: MakeStepRunner | None = None) -> None:
    """Run this rank from the environment: NEMOPERF_RUN_DIR and the variables of torchrun.

    Args:
        make_trainer: Builder of the rank's part of pre-training; None for the native engine.

    Raises:
        LaunchError: If the environment is incomplete.
        Exception: Any error of the run, after it was written to the rank's error file.
    """
    env = read_environment()
    peers = Peers(rank=env.rank, world_size=env.world_size, run_dir=env.run_dir)
    try:
        run(env, make_trainer=make_trainer or make_native_trainer, peers=peers)
    except Exception as error:
        report_failure(error, env=env, peers=peers)
        raise


def report_failure(error: Exception, *, env: RankEnvironment, peers: Peers) -> None:
    """Write this rank's error file, unless another rank's end is the cause, and tell the others.

    Raises:
        LostRankError: If another rank's end is the cause.
    """
    lost = peers.lost() if isinstance(error, RuntimeError) else None  # as errors of torch's collectives are
    if lost is None:
        write_error(env.run_dir, rank=env.rank, error=error)
    peers.fail(f"{type(error).__name__}: {error}")
    if lost is not None:
        time.sleep(_AFTER_LOST_SEC)
        raise LostRankError(f"before this error of rank {env.rank}, {lost}") from error


def read_environment() -> RankEnvironment:
    """Return this rank's environment.

    Raises:
        LaunchError: If a variable is missing.
    """
    world_size = _variable("WORLD_SIZE")
    return RankEnvironment(
        run_dir=Path(_variable("NEMOPERF_RUN_DIR")),
        rank=int(_variable("RANK")),
        world_size=int(world_size),
        local_rank=int(_variable("LOCAL_RANK")),
        local_world_size=int(os.environ.get("LOCAL_WORLD_SIZE", world_size)),
    )


def run(env: RankEnvironment, *, make_trainer: MakeStepRunner, peers: Peers) -> None:
    """Run the plan of the run directory on this rank.

    Args:
        env: Environment of this rank.
        make_trainer: Builder of the rank's part of pre-training.
        peers: This rank's part in the notice of failures.

    Raises:
        LaunchError: If this rank can't meet the others.
        PlanError: If the plan doesn't fit the ranks that were started, or needs something that isn't built in.
        RecordError: If the plan can't be read.
    """
    plan = read_plan(env)
    device = join_ranks(plan, env=env, peers=peers)
    if plan.is_compiled:
        use_own_cache(env.run_dir)
    train(plan, env=env, device=device, make_trainer=make_trainer)
    peers.done()
    dist.destroy_process_group()


def read_plan(env: RankEnvironment) -> Plan:
    """Return the plan in the run directory.

    Raises:
        PlanError: If it doesn't fit the ranks that were started.
        RecordError: If it can't be read.
    """
    path = env.run_dir / PLAN_FILE
    plan = read_data(Plan, path)
    _check_plan(plan, world_size=env.world_size)
    return plan


def join_ranks(plan: Plan | Collective, *, env: RankEnvironment, peers: Peers | None = None) -> torch.device:
    """Join the group of all ranks, and return this rank's device.

    Args:
        plan: Plan of the run, or the collective that it times.
        env: Environment of this rank.
        peers: This rank's part in the notice of failures; None for a rank that waits for no other.

    Raises:
        LaunchError: If the ranks can't meet; the text says what was tried.
    """
    timeout = group_timeout(plan)
    os.environ.update(fast_path_environment(os.environ))
    device = torch.device("cpu")
    backend = "gloo"
    if plan.device == "cuda":
        if TF32 in enabled_fast_paths(os.environ):
            torch.set_float32_matmul_precision("high")
        device = torch.device("cuda", env.local_rank)
        backend = "nccl"
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, available_cores() // env.local_world_size))
        tune_host_memory()
    store = open_store(rank=env.rank, world_size=env.world_size, timeout=timeout)
    if peers is not None:
        peers.join(store, address=os.environ["MASTER_ADDR"])
    join_group(backend, store=store, rank=env.rank, world_size=env.world_size, device=device, timeout=timeout)
    if peers is not None:
        peers.joined()
    return device


def _check_plan(plan: Plan, *, world_size: int) -> None:
    """Check that this engine can run the plan on so many ranks.

    Raises:
        PlanError: If not.
    """
    layout = plan.layout
    if world_size != layout.total_gpus:
        raise PlanError(
            f"WORLD_SIZE={world_size} but the layout has gpus={layout.total_gpus}; start exactly one rank per GPU"
        )


def train(plan: Plan, *, env: RankEnvironment, device: torch.device, make_trainer: MakeStepRunner) -> None:
    """Build this rank's part, run all steps, and write records and result on rank 0."""
    progress = None
    if env.rank == 0:
        progress = ProgressWriter(env.run_dir, last_step=plan.total_steps - 1)
    profiler = None
    if plan.is_profiled:
        profiler = StepProfiler(plan, device=device)
    run_all = partial(_run_steps, plan=plan, device=device, progress=progress, profiler=profiler)
    facts: list[RolloutFacts] = []
    choices: Mapping[str, str] = {}
    trained: tuple[Trained, ...] = ()
    yardsticks: list[tuple[Yardstick, ...]] = []
    is_yardstick_due = has_yardstick(plan)
    if is_yardstick_due:  # before anything of the model is there
        yardsticks.append(gather_yardsticks(measure_yardstick(device, precision=plan.precision), device=device))
    if plan.rl is None:
        trainer = make_trainer(plan, rank=env.rank, device=device)
        if isinstance(trainer, Explained):
            choices = trainer.environment
        if isinstance(trainer, Checkpointed):
            trained = trainer.trained
        steps = run_all(trainer.step, barrier=dist.barrier)
    else:
        rl_rank = make_rl_rank(plan, device=device)
        steps = run_all(rl_rank.step, barrier=rl_rank.barrier)
        rl_rank.finish()
        facts = rl_rank.facts
        trained = rl_rank.trained
    gathered = gather_steps(steps, peak_bytes=peak_memory_bytes(device), device=device)
    if is_yardstick_due:  # after the peak of memory was read
        yardsticks.append(gather_yardsticks(measure_yardstick(device, precision=plan.precision), device=device))
    if profiler is not None:
        profiler.write(env.run_dir, rank=env.rank)
    checkpoint = _checkpoint_times(plan, trained, device=device)  # after the peak of memory was read
    hosts = gather_hosts()
    dist.barrier()  # the result file promises that every rank got here
    if env.rank == 0:
        if plan.rl is None:
            records = step_records(plan, gathered=gathered)
        else:
            records = rl_step_records(plan, gathered=gathered, facts=facts)
        write_atomic(env.run_dir / STEPS_FILE, "".join(map(to_json_line, records)))
        result = RunResult(
            num_ranks=env.world_size,
            num_steps=plan.total_steps,
            device_name=device_name(device),
            environment={**environment(device), **choices},
            hosts=hosts,
            yardsticks_before=yardsticks[0] if yardsticks else (),
            yardsticks_after=yardsticks[1] if yardsticks else (),
            checkpoint=checkpoint,
        )
        write_atomic(env.run_dir / RESULT_FILE, to_json(result))


def _checkpoint_times(plan: Plan, trained: Sequence[Trained], *, device: torch.device) -> CheckpointTimes | None:
    """Save and load a checkpoint if the plan asks for it; return the times on rank 0, else None."""
    if not (plan.has_checkpoint and plan.checkpoint_dir):
        return None
    from pytest_nemoperf.native.rank.checkpoint import time_checkpoint  # noqa: PLC0415 (80 modules, in no other rank)

    return time_checkpoint(plan, trained, device=device)


def make_native_trainer(plan: Plan, *, rank: int, device: torch.device) -> Trainer:
    """Build the native engine's part of a pre-training run on this rank."""
    layout = plan.layout
    mesh = build_mesh(layout, model=plan.model, device_type=device.type, timeout=group_timeout(plan))
    positions = local_positions(plan.seq_len, mesh=mesh)
    return Trainer(
        plan,
        chunks=parallelize(plan, mesh=mesh, device=device),
        mesh=mesh,
        data=SyntheticTokens(plan, dp_rank=data_parallel_rank(rank, layout=layout), device=device, positions=positions),
        clock=phase_clock(device),
    )


def _run_steps(
    run_step: Callable[[int], RankStep],
    *,
    plan: Plan,
    device: torch.device,
    progress: ProgressWriter | None,
    barrier: Callable[[], None],
    profiler: StepProfiler | None = None,
) -> list[RankStep]:
    """Run warm-up and measured steps and return all; peak memory is that of the measured ones.

    Args:
        run_step: Runs the step of a number.
        plan: Plan of the run.
        device: Device of this rank.
        progress: Writer of the progress file; None but on rank 0.
        barrier: Waits for the ranks that enter a step together: all, or all that train. Work between the steps (rank 0
            writes progress) must not be another rank's waiting time.
        profiler: Profiler of a profiled run; None for any other run.
    """
    if profiler is not None:
        run_step = partial(profiler.run, run_step)
    steps = []
    # Objects built so far are kept to the end: later collections need not visit them, and the pages that a forked
    # rank shares with its server are not touched.
    gc.freeze()
    gc.disable()
    wait_for_ranks = partial(_wait_for_ranks, barrier, device=device)
    for number in steps_in_turn(
        plan.turn, rank=dist.get_rank(), num_steps=plan.total_steps, wait_for_ranks=wait_for_ranks
    ):
        if number == plan.warmup_steps:
            reset_peak_memory(device)
        barrier()
        step = run_step(number)
        steps.append(step)
        if progress is not None:
            progress.step_done(number, step_time_sec=step.step_time_sec)
        gc.collect()
    return steps


def _wait_for_ranks(barrier: Callable[[], None], *, device: torch.device) -> None:
    """Wait until all ranks and their devices are idle: on a GPU, even waiting for other ranks keeps the device busy."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    barrier()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _variable(name: str) -> str:
    try:
        return os.environ[name]
    except KeyError:
        raise LaunchError(
            f"{name} is not set; ranks are started by a launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, "
            "MASTER_ADDR, MASTER_PORT and NEMOPERF_RUN_DIR"
        ) from None


def main_of_process(make_trainer: MakeStepRunner | None = None) -> NoReturn:
    """Run this rank as the main function of a process, and end it.

    Args:
        make_trainer: As of main.
    """
    exit_code = 0
    try:
        main(make_trainer)
    except Exception:
        traceback.print_exc()
        exit_code = 1
    # Like a forked rank, end without the interpreter's teardown: it races with gloo's threads, and a rank whose
    # result is complete died of SIGABRT in 2 of 25 runs ("terminate called without an active exception"). After an
    # error it may wait for collectives that never end.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    main_of_process()
