"""Steps of PolicyUpdate on samples made by hand, on real ranks or in this process."""

# N samples, S tokens of the longest

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

from pytest_nemoperf.native.parallel.mesh import RankMesh, build_mesh
from pytest_nemoperf.native.phases import phase_clock
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn import policy_update
from pytest_nemoperf.native.rl.learn.objective import policy_terms
from pytest_nemoperf.native.rl.learn.policy_update import PolicyUpdate
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RL_PHASES
from tests.native.samples import make_samples

CPU = torch.device("cpu")
RESPONSE_LENS = (6, 3, 1, 4, 0, 5, 2, 6)
PROMPT_LENS = (9, 9, 12, 12, 10, 10, 11, 11)
REWARDS = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 1.0)
NUM_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Results of some steps on one rank.

    Attributes:
        updates: Loss and gradient norm of each step's last update.
        logprobs: Of the policy then.
        values: Of the value model then; empty without one.
    """

    updates: list[tuple[float, float]]
    logprobs: list[list[float]]
    values: list[list[float]]


def step_samples(plan: Plan) -> StepSamples:
    """Return eight samples of four prompts: one without a response, one group of equal rewards."""
    samples = make_samples(RESPONSE_LENS, prompt_lens=PROMPT_LENS, rewards=REWARDS, group_size=2)
    return replace(samples, tokens_NS=samples.tokens_NS % plan.model.vocab_size)


def trained(plan: Plan, *, mesh: RankMesh) -> Trained:
    """Train on the same samples in each step and return this rank's results."""
    update = PolicyUpdate(plan, mesh=mesh, device=CPU, clock=phase_clock(CPU, names=RL_PHASES))
    samples = step_samples(plan)
    update._clock.start()
    steps = [update.learn(samples) for _ in range(NUM_STEPS)]
    return Trained(
        updates=[(step.loss.item(), step.grad_norm.item()) for step in steps],
        logprobs=update.policy.logprobs(samples).tolist(),
        values=[] if update._critic is None else update._critic.values(samples).tolist(),
    )


def main() -> None:
    """Run a rank that writes its results."""
    with mock.patch.object(entry, "train", _train):
        entry.main()


def with_terms_of_the_whole_step() -> None:
    """Run with means over all samples of the step, not over the update's own."""

    def whole(samples, *, numbers, **options):  # type: ignore[no-untyped-def]  # passes on what it is given
        return policy_terms(samples, numbers=range(len(samples.lens_N)), **options)

    with mock.patch.object(policy_update, "policy_terms", whole):
        main()


def read_trained(run_dir: Path, *, num_ranks: int) -> list[Trained]:
    """Return the results, by rank."""
    texts = [(run_dir / f"trained-{number}.json").read_text() for number in range(num_ranks)]
    return [Trained(**json.loads(text)) for text in texts]


def _train(plan: Plan, *, env: entry.RankEnvironment, device: torch.device, make_trainer: entry.MakeStepRunner) -> None:
    mesh = build_mesh(plan.layout, model=plan.model, device_type=device.type)
    found = trained(plan, mesh=mesh)
    facts = {name: getattr(found, name) for name in Trained.__slots__}
    (env.run_dir / f"trained-{env.rank}.json").write_text(json.dumps(facts))
    if mesh.world is not None:
        dist.barrier()
