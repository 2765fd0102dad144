"""Loop of reinforcement learning: the steps of colocated, training and generating ranks.

Colocated ranks send weights to the generator, generate, free the generator's memory and train. Otherwise training and
generating ranks run loops of their own, coupled by samples in one direction and weights in the other. Batch k is always
generated with the weights of step max(0, k - max_staleness), so that the tokens of a run do not depend on the speed of
either side. At max_staleness 0 the sides wait for each other in turn.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Protocol

import torch
import torch.distributed as dist
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.parallel.mesh import (
    GenerationMesh,
    RankMesh,
    build_generation_mesh,
    build_mesh,
    group_timeout,
)
from pytest_nemoperf.native.parallel.refit import Refit, WeightSnapshot
from pytest_nemoperf.native.phases import PhaseClock, RankStep, phase_clock
from pytest_nemoperf.native.rl.collect import CollectedRollouts, Collector
from pytest_nemoperf.native.rl.generate.generation import NativeGenerator
from pytest_nemoperf.native.rl.generate.rollout_transfer import RolloutBatch, RolloutTransfer
from pytest_nemoperf.native.rl.generate.rollouts import Generator, StepSamples
from pytest_nemoperf.native.rl.generate.vllm_generator import VllmGenerator
from pytest_nemoperf.native.rl.learn.policy_update import PolicyUpdate, UpdateStats
from pytest_nemoperf.native.rl.learn.rollout_facts import RolloutFacts, rollout_facts_of
from pytest_nemoperf.native.rl.refit_notice import RefitNotice, version_tensor
from pytest_nemoperf.native.train.optimizer_step import Trained
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RL_PHASES


class RLRank(Protocol):
    """One rank's part of the loop."""

    facts: list[RolloutFacts]

    def barrier(self) -> None:
        """Wait for the ranks that enter a step together with this one."""

    def step(self, number: int) -> RankStep:
        """Run this rank's part of a step."""

    def finish(self) -> None:
        """Receive or deliver weights and samples that are still on their way."""

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Models that this rank trains, with their optimizers."""


def make_rl_rank(plan: Plan, *, device: torch.device) -> RLRank:
    """Build this rank's part of the loop; every rank of the run must call it, as all of them make the groups."""
    layout = plan.layout
    generation = layout.generation
    assert plan.rl is not None and generation is not None  # noqa: S101, PT018 (resolve filled both)
    timeout = group_timeout(plan)
    mesh = build_mesh(layout, model=plan.model, device_type=device.type, timeout=timeout)
    generation_mesh = build_generation_mesh(layout, timeout=timeout)
    clock = phase_clock(device, names=RL_PHASES)
    refit = Refit(plan, group=_new_group(plan), device=device)
    link = None
    notice = None
    if not generation.is_colocated:
        link = _new_group(plan)
        notice = RefitNotice(_new_group(plan), device=device)
    generating = None if generation_mesh is None else generation_mesh.world
    transfer = RolloutTransfer(plan, generating=generating, link=link, device=device)
    if generation_mesh is None:
        assert notice is not None  # noqa: S101 (a rank that does not generate is apart)
        training = TrainPhase(plan, mesh=mesh, clock=clock, device=device)
        return TrainingRank(training, transfer=transfer, refit=refit, notice=notice)
    generator = make_generator(plan, mesh=generation_mesh, device=device)
    collector = Collector(
        plan, generator=generator, mesh=generation_mesh, transfer=transfer, device=device, clock=clock
    )
    if notice is not None:
        return GeneratingRank(collector, transfer=transfer, refit=refit, notice=notice)
    training = TrainPhase(plan, mesh=mesh, clock=clock, device=device)
    return ColocatedRank(training, collector=collector, transfer=transfer, refit=refit)


def make_generator(plan: Plan, *, mesh: GenerationMesh, device: torch.device) -> Generator:
    """Build the plan's generator."""
    if plan.rl is not None and plan.rl.generator == "vllm":
        return VllmGenerator(plan, device=device)
    return NativeGenerator(plan, mesh=mesh, device=device)


class TrainPhase:
    """Training part of a step, on colocated and on training ranks.

    Args:
        plan: Models, layout and algorithm.
        mesh: Process groups of the ranks that train.
        clock: Clock of this rank.
        device: Device of this rank.
    """

    def __init__(self, plan: Plan, *, mesh: RankMesh, clock: PhaseClock, device: torch.device) -> None:
        self.plan = plan
        self.mesh = mesh
        self.clock = clock
        self.update = PolicyUpdate(plan, mesh=mesh, device=device, clock=clock)
        self.facts: list[RolloutFacts] = []

    def end_step(
        self,
        rollouts: RolloutBatch,
        *,
        samples: StepSamples,
        stats: UpdateStats,
        num_refit_bytes: int,
    ) -> RankStep:
        """Stop the clock, then compute the statistics of the step's samples (on rank 0)."""
        if self.plan.inject_pct > 0:
            self.clock.delay(self.plan.inject_pct)
        timed = self.clock.stop()
        if dist.get_rank() == 0:
            facts = rollout_facts_of(
                self.plan,
                step=len(self.facts),
                rollouts=rollouts,
                samples=samples,
                stats=stats,
                num_refit_bytes=num_refit_bytes,
            )
            self.facts.append(facts)
        return replace(timed, loss=stats.loss.item(), grad_norm=stats.grad_norm.item())


class ColocatedRank:
    """Generates and trains in turns."""

    def __init__(self, training: TrainPhase, *, collector: Collector, transfer: RolloutTransfer, refit: Refit) -> None:
        self._training = training
        self._clock = training.clock
        self._collector = collector
        self._generator = collector.generator
        self._transfer = transfer
        self._refit = refit
        self.facts = training.facts

    def barrier(self) -> None:
        """Wait for all ranks."""
        _barrier(self._training.mesh.world)

    def step(self, number: int) -> RankStep:
        """Refit, generate, train."""
        self._clock.start()
        self._refit.run(self._training.update.policy.named_weights(), self._generator.allocate())
        self._generator.on_weights_updated()
        self._clock.mark("refit")
        version = version_tensor(self._training.update.version, device=self._collector.device)
        collected = self._collector.collect(number, version=version)
        self._generator.release()
        samples = self._transfer.to_samples(collected.rollouts, step=number)
        self._clock.mark("other")
        stats = self._training.update.learn(samples)
        trained = self._training.end_step(
            collected.rollouts, samples=samples, stats=stats, num_refit_bytes=self._refit.num_bytes
        )
        return _with_generation(trained, collected)

    def finish(self) -> None:
        """Do nothing: no weights or samples are on their way between steps."""

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Policy and value model with their optimizers."""
        return self._training.update.trained


class TrainingRank:
    """Trains on samples of other ranks and sends them its weights."""

    def __init__(self, training: TrainPhase, *, transfer: RolloutTransfer, refit: Refit, notice: RefitNotice) -> None:
        assert training.plan.rl is not None  # noqa: S101 (make_rl_rank checked it)
        self._training = training
        self._clock = training.clock
        self._staleness = training.plan.rl.max_staleness
        self._transfer = transfer
        self._refit = refit
        self._notice = notice
        self._pending: deque[WeightSnapshot] = deque()
        self.facts = training.facts
        self._send_weights()

    def barrier(self) -> None:
        """Wait for the other training ranks."""
        _barrier(self._training.mesh.world)

    def step(self, number: int) -> RankStep:
        """Wait for samples, train, send the weights."""
        self._clock.start()
        rollouts = self._transfer.receive()
        self._clock.mark("exposed_generation")
        samples = self._transfer.to_samples(rollouts, step=number)
        self._clock.mark("other")
        stats = self._training.update.learn(samples)
        self._send_weights()
        self._clock.mark("refit")
        return self._training.end_step(rollouts, samples=samples, stats=stats, num_refit_bytes=self._refit.num_bytes)

    def finish(self) -> None:
        """Wait until the last weights have arrived."""
        self._wait_for_weights(max_in_flight=0)
        self._notice.finish()

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Policy and value model with their optimizers."""
        return self._training.update.trained

    def _send_weights(self) -> None:
        """Send the weights; unless the other side waits for them (on-policy), training goes on meanwhile."""
        self._wait_for_weights(max_in_flight=max(self._staleness - 1, 0))
        self._notice.send(self._training.update.version)
        self._pending.append(self._refit.start(self._training.update.policy.named_weights()))
        if self._staleness == 0:
            self._wait_for_weights(max_in_flight=0)

    def _wait_for_weights(self, *, max_in_flight: int) -> None:
        while len(self._pending) > max_in_flight:
            self._pending.popleft().wait()


class GeneratingRank:
    """Generates for other ranks, up to max_staleness batches ahead of them."""

    def __init__(self, collector: Collector, *, transfer: RolloutTransfer, refit: Refit, notice: RefitNotice) -> None:
        assert collector.plan.rl is not None  # noqa: S101 (make_rl_rank checked it)
        self._collector = collector
        self._clock = collector.clock
        self._generator = collector.generator
        self._staleness = collector.plan.rl.max_staleness
        self._transfer = transfer
        self._refit = refit
        self._notice = notice
        self._targets = self._generator.allocate()
        self._version = version_tensor(0, device=collector.device)
        self._num_missing = collector.plan.total_steps + 1  # sets of weights: the first, and one after each step
        self.facts: list[RolloutFacts] = []

    def barrier(self) -> None:
        """Wait for the other generating ranks."""
        _barrier(self._collector.mesh.world)

    def step(self, number: int) -> RankStep:
        """Receive new weights if the step needs them, generate, send the samples."""
        self._clock.start()
        if number == 0 or number > self._staleness:
            self._receive_weights()
        collected = self._collector.collect(number, version=self._version)
        self._transfer.send(collected.rollouts)
        return _with_generation(self._clock.stop(), collected)

    def finish(self) -> None:
        """Receive the weights that no batch needs, so that the last training steps send theirs like all others."""
        while self._num_missing:
            self._receive_weights()
        self._transfer.finish()

    @property
    def trained(self) -> tuple[Trained, ...]:
        """Nothing: this rank generates only."""
        return ()

    def _receive_weights(self) -> None:
        self._version = self._notice.receive()
        self._clock.mark("idle")
        self._refit.receive(self._targets)
        self._generator.on_weights_updated()
        self._clock.mark("refit")
        self._num_missing -= 1


def _with_generation(step: RankStep, collected: CollectedRollouts) -> RankStep:
    """Return a rank's step with the figures of its generation."""
    return replace(
        step,
        generation_sec=collected.generation_sec,
        num_generated_tokens=collected.num_generated_tokens,
        num_slot_passes=collected.num_slot_passes,
    )


def _barrier(group: ProcessGroup | None) -> None:
    if group is not None:
        dist.barrier(group=group)


def _new_group(plan: Plan) -> ProcessGroup | None:
    """Make a group of all ranks for one purpose: training and generating ranks call collectives in different orders."""
    num_ranks = plan.layout.total_gpus
    return None if num_ranks == 1 else dist.new_group(list(range(num_ranks)), timeout=group_timeout(plan))
