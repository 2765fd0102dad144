"""Shared by tests of the generation engine: a workload, scrambled weights, and ranks that report their responses.

``generate`` and its sabotaged sisters are entrypoints of the warm server, as in sabotage.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel import sharding
from pytest_nemoperf.native.parallel.mesh import GenerationMesh, RankMesh, build_generation_mesh
from pytest_nemoperf.native.parallel.sharding import AxisShard, axis_shards
from pytest_nemoperf.native.rank.entry import read_environment
from pytest_nemoperf.native.rl.generate import generation, responses, sampling
from pytest_nemoperf.native.rl.generate.generation import NativeGenerator
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Request, Response
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL, STOP_TOKEN
from pytest_nemoperf.records.step import PLAN_FILE
from tests.native.tiny import CPU, build, tiny_config, tiny_plan

SEQ_LEN = 28
MAX_LEN = 10  # beyond every window and chunk of the models
NUM_SAMPLES = 8


def rl_plan(
    model: ModelConfig | None = None,
    *,
    layout: GenerationLayout | None = None,
    num_training: int = 1,
    seq_len: int = SEQ_LEN,
    precision: str = "fp32",
    **changes: Any,
) -> Plan:
    """Return a plan with four prompts of two responses each."""
    values = {"num_prompts_per_step": 4, "num_generations_per_prompt": 2, "prompt_len": 8, "max_response_len": MAX_LEN}
    return tiny_plan(
        model=model or tiny_config(),
        seq_len=seq_len,
        precision=precision,
        layouts={"cpu": Layout(gpus=num_training, dp_replicate=num_training, generation=layout)},
        global_batch_size=NUM_SAMPLES,
        rl=RL(**{**values, **changes}),
    )


def requests(*, is_pinned: bool = True, max_len: int | None = None) -> list[Request]:
    """Return two samples of each of four prompts, of other lengths each, with other limits unless one is given."""
    return [
        Request(
            sample=sample,
            prompt=tuple((7 * (sample // 2) + 3 * place) % 64 for place in range(5 + sample // 2 % 3)),
            max_len=max_len or MAX_LEN - sample % 5,
            is_pinned=is_pinned,
        )
        for sample in range(NUM_SAMPLES)
    ]


def scrambled(plan: Plan) -> Decoder:
    """Return the plan's model as training holds it, with random weights, so that each has an effect."""
    model = build(plan)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.2, generator=generator)
    return model.requires_grad_(requires_grad=False)


def generator_of(
    plan: Plan, *, weights: Mapping[str, Tensor] | None = None, mesh: GenerationMesh | None = None
) -> NativeGenerator:
    """Return a generator with the whole weights' parts in it, by default those of scrambled."""
    mesh = mesh or GenerationMesh()
    generator = NativeGenerator(plan, mesh=mesh, device=CPU)
    fill(generator, plan=plan, weights=weights, mesh=mesh)
    return generator


def fill(
    generator: NativeGenerator,
    *,
    plan: Plan,
    weights: Mapping[str, Tensor] | None = None,
    mesh: GenerationMesh | None = None,
) -> None:
    """Fill a generator's memory with its parts of the weights, as a refit does."""
    weights = dict(scrambled(plan).named_parameters()) if weights is None else weights
    parts = RankMesh() if mesh is None else RankMesh(tp=mesh.tp, etp=mesh.tp)
    known = {weight.name: weight for weight in model_weights(plan.model)}
    for name, room in generator.allocate().items():
        part = weights[name].detach()
        for share in axis_shards(known[name], mesh=parts):
            part = share.take(part)
        room.copy_(part)
    generator.on_weights_updated()


def true_logprobs(model: Decoder, request: Request, response: Response, *, temperature: float = 1.0) -> Tensor:
    """Return training's log-probabilities of the response's tokens, all at once and without a cache."""
    tokens = torch.tensor([*request.prompt, *response.tokens])
    model.positions_S = torch.arange(len(tokens))
    model.tabulate_positions(CPU)
    logits = model.logits(tokens[None])[0, len(request.prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(1, tokens[len(request.prompt) :, None])[:, 0]


def generate() -> None:
    """Generate this replica's share of the requests on real ranks, and write the responses."""
    env = read_environment()
    plan = from_json(Plan, (env.run_dir / PLAN_FILE).read_bytes(), subject="plan")
    dist.init_process_group("gloo")
    mesh = build_generation_mesh(plan.layout)
    generated: list[Any] | None = None
    if mesh is not None:
        assert plan.layout.generation is not None
        mine = requests(is_pinned=False)[mesh.number :: plan.layout.generation.dp]
        out = generator_of(plan, mesh=mesh).generate(mine, seed=1)
        generated = [[response.sample, response.tokens, response.logprobs] for response in out.responses]
    (env.run_dir / f"generated-rank{env.rank}.json").write_text(json.dumps(generated))
    dist.barrier()
    dist.destroy_process_group()


def with_everyones_first_part() -> None:
    """Generate with tensor parallel ranks that all hold the first part of each matrix."""
    with mock.patch.object(
        sharding, "_axis_shard", lambda split, group: AxisShard(split=split, degree=group.size(), rank=0)
    ):
        generate()


def with_stages_in_the_wrong_order() -> None:
    """Generate with a pipeline in the wrong order of stages."""

    def swapped(model: ModelConfig, *, pp: int, vp: int) -> tuple[tuple[range, ...], ...]:
        return stage_layers(model, pp=pp, vp=vp)[::-1]

    with mock.patch.object(generation, "stage_layers", swapped):
        generate()


def with_numbers_by_place() -> None:
    """Generate with replicas that draw by the place of a request, not by the sample's number."""
    original = sampling.draw_uniforms

    def by_place(asked: Sequence[Request], *, seed: int) -> Tensor:
        return original([replace(request, sample=place) for place, request in enumerate(asked)], seed=seed)

    with mock.patch.object(responses, "draw_uniforms", by_place):
        generate()


def with_draws_that_differ() -> None:
    """Generate with a tp group on a device with unrepeatable draws: all but the first rank draw other tokens."""
    original = sampling.Sampling.draw
    build = NativeGenerator.__init__

    def drawn(self: sampling.Sampling, logits: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        return original(self, logits, uniforms if dist.get_rank() % 2 == 0 else (uniforms + 0.5) % 1)

    def built(self: NativeGenerator, *args: Any, **options: Any) -> None:
        build(self, *args, **options)
        self._draws_are_repeatable = False

    with mock.patch.object(sampling.Sampling, "draw", drawn), mock.patch.object(NativeGenerator, "__init__", built):
        generate()


def read_generated(run_dir: Path, *, num_ranks: int) -> list[list[Any] | None]:
    """Return the responses that each rank wrote."""
    return [json.loads((run_dir / f"generated-rank{rank}.json").read_text()) for rank in range(num_ranks)]


def tokens_of(generated: GenerationResult) -> list[tuple[int, ...]]:
    return [response.tokens for response in generated.responses]


def stopping_plan_and_weights() -> tuple[Plan, dict[str, Tensor]]:
    """Return a plan, and weights that favour the stop token after any other."""
    plan = rl_plan(tiny_config(norm="layernorm"))
    weights = {name: weight.detach() for name, weight in scrambled(plan).named_parameters()}
    weights["norm.weight"].zero_()
    weights["norm.bias"].fill_(1.0)
    weights["head.weight"].zero_()
    weights["head.weight"][STOP_TOKEN] = 3.0 / plan.model.hidden_size
    return plan, weights
