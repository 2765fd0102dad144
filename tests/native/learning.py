"""TrainModel on real ranks: each writes its results for the same samples, for tests to compare.

Make plans elsewhere: every rank imports this module, and would import what makes plans each time.
"""

# N samples, S tokens of the longest, T tokens of a micro-batch, K columns of terms

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.native.model import attention
from pytest_nemoperf.native.parallel import context_parallel
from pytest_nemoperf.native.parallel.mesh import RankMesh, build_mesh
from pytest_nemoperf.native.parallel.messages import Messages
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.native.rl.generate.rollouts import StepSamples
from pytest_nemoperf.native.rl.learn import batches
from pytest_nemoperf.native.rl.learn.train_model import TrainModel
from pytest_nemoperf.recipes.recipe import Plan

PROMPT_LENS = (8, 11, 12, 9, 8, 10, 12, 8)
RESPONSE_LENS = (20, 1, 7, 0, 13, 4, 2, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One rank's log-probabilities: of the policy before and after two updates, and of a reference."""

    before: list[list[float]]
    updates: list[tuple[float, float]]
    after: list[list[float]]
    reference: list[list[float]]


def make_samples(*, vocab_size: int) -> StepSamples:
    """Return eight samples of eight lengths; no zeros behind a sample, so that any use of them shows."""
    prompt_lens, lens = torch.tensor(PROMPT_LENS), torch.tensor(PROMPT_LENS) + torch.tensor(RESPONSE_LENS)
    generator = torch.Generator().manual_seed(7)
    shape = (len(PROMPT_LENS), int(lens.max()))
    return StepSamples(
        tokens_NS=torch.randint(vocab_size, shape, generator=generator),
        prompt_lens_N=prompt_lens,
        lens_N=lens,
        is_truncated_N=torch.zeros(len(PROMPT_LENS), dtype=torch.bool),
        logprobs_NS=torch.zeros(shape),
        rewards_N=torch.zeros(len(PROMPT_LENS)),
        group_size=2,
    )


def make_terms(samples: StepSamples, *, logprobs: Tensor, numbers: range) -> Tensor:
    """Return weights, advantages and old log-probabilities of the samples of one update."""
    mask = samples.response_mask_NS()
    mask = mask & torch.isin(torch.arange(len(mask)), torch.tensor(numbers))[:, None]
    advantage = torch.linspace(-1, 2, len(mask))[:, None].expand_as(mask)
    return torch.stack([mask / mask.sum().clamp(min=1), advantage, logprobs], dim=-1)


def objective(logprob: Tensor, terms: Tensor | None) -> Tensor:
    """Return the plain policy gradient's loss."""
    assert terms is not None
    weight, advantage, old = terms.unbind(-1)
    return -(weight * advantage * torch.exp(torch.where(weight > 0, logprob - old, 0))).sum()


def findings(plan: Plan, *, mesh: RankMesh) -> Findings:
    """Return this rank's findings."""
    device = torch.device("cpu")
    samples = make_samples(vocab_size=plan.model.vocab_size)
    learner = TrainModel(plan, mesh=mesh, device=device, objective=objective)
    reference = TrainModel(plan, mesh=mesh, device=device, objective=objective, is_trainable=False)
    before = learner.logprobs(samples)
    updates = []
    for first in (0, 4):
        numbers = range(first, first + 4)
        terms = make_terms(samples, logprobs=before, numbers=numbers)
        loss, grad_norm = learner.update(samples, numbers=numbers, terms_NSK=terms)
        updates.append((loss.item(), grad_norm.item()))
    assert all(weight.grad is None for weight in learner.named_weights().values())
    return Findings(
        before=before.tolist(),
        updates=updates,
        after=learner.logprobs(samples).tolist(),
        reference=reference.logprobs(samples).tolist(),
    )


def main() -> None:
    """Run a rank that writes its findings."""
    with mock.patch.object(entry, "train", _train):
        entry.main()


def with_many_lengths() -> None:
    """Run a rank that writes the log-probabilities of samples of many lengths, the first ones twice, and its stages."""
    with mock.patch.object(entry, "train", _train_lengths):
        entry.main()


def with_padding_first() -> None:
    """Run with padding before the samples, visible to attention."""
    original = batches.Batches._cut

    def shifted(self: batches.Batches, rows: Any, *, samples: StepSamples) -> batches.PackedIndex:
        cut = original(self, rows, samples=samples)
        return batches.PackedIndex(
            source_BL=cut.source_BL.roll(1, -1), target_BL=cut.target_BL.roll(1, -1), tables=cut.tables
        )

    with mock.patch.object(batches.Batches, "_cut", shifted):
        main()


def with_everyones_first_share() -> None:
    """Run with data parallel ranks that all train on the same samples."""
    with mock.patch("pytest_nemoperf.native.rl.learn.train_model.data_parallel_rank", return_value=0):
        main()


def with_one_sample_a_row() -> None:
    """Run with packed rows in which samples see those before them."""
    original = attention.attend

    def whole_row(*args: Any, lens: tuple[int, ...], **options: Any) -> Tensor:
        del lens
        return original(*args, **options)

    with mock.patch.object(attention, "attend", whole_row):
        main()


def with_everyones_first_piece() -> None:
    """Run with context parallel ranks that all have the same pieces of each row."""
    original = context_parallel.local_positions

    def first(seq_len: int, *, mesh: RankMesh) -> Tensor:
        return original(seq_len, mesh=mesh) if mesh.cp is None else torch.arange(seq_len // mesh.cp.size())

    with mock.patch.object(batches, "local_positions", first):
        main()


def with_positions_of_the_last() -> None:
    """Run a pipeline with the last packed row's positions for all rows."""
    original = batches.Batches.cut

    def alike(self: batches.Batches, samples: StepSamples, **options: Any) -> list[batches.PackedIndex]:
        cuts = original(self, samples, **options)
        return [replace(cut, tables=cuts[-1].tables) for cut in cuts]

    with mock.patch.object(batches.Batches, "cut", alike):
        main()


def _train(plan: Plan, *, env: entry.RankEnvironment, device: torch.device, make_trainer: entry.MakeStepRunner) -> None:
    mesh = build_mesh(plan.layout, model=plan.model, device_type=device.type)
    found = findings(plan, mesh=mesh)
    facts = {name: getattr(found, name) for name in Findings.__slots__}
    (env.run_dir / f"findings-{env.rank}.json").write_text(json.dumps(facts))
    dist.barrier()


def _train_lengths(
    plan: Plan, *, env: entry.RankEnvironment, device: torch.device, make_trainer: entry.MakeStepRunner
) -> None:
    mesh = build_mesh(plan.layout, model=plan.model, device_type=device.type)
    learner = TrainModel(plan, mesh=mesh, device=device)
    samples = make_samples(vocab_size=plan.model.vocab_size)
    said = [
        learner.logprobs(replace(samples, lens_N=samples.lens_N.clamp(max=longest))).tolist()
        for longest in (*range(18, 30), 18)
    ]
    gc.collect()
    num_passes = sum(type(thing) is Messages for thing in gc.get_objects())
    facts = {"num_passes": num_passes, "first": said[0], "again": said[-1]}
    (env.run_dir / f"lengths-{env.rank}.json").write_text(json.dumps(facts))
    dist.barrier()


def read_lengths(run_dir: Path, *, num_ranks: int) -> list[dict[str, Any]]:
    """Return the results of with_many_lengths, by rank."""
    return [json.loads((run_dir / f"lengths-{number}.json").read_text()) for number in range(num_ranks)]


def read_findings(run_dir: Path, *, num_ranks: int) -> list[Findings]:
    """Return the findings, by rank."""
    texts = [(run_dir / f"findings-{number}.json").read_text() for number in range(num_ranks)]
    return [Findings(**json.loads(text)) for text in texts]
