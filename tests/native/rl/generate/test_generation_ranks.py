"""Replicas of several ranks, and several replicas, generate the tokens of one rank."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult
from tests.native.engine import Engine
from tests.native.families import PARTS
from tests.native.generating import NUM_SAMPLES, generator_of, read_generated, requests, rl_plan
from tests.native.tiny import tiny_config

ODD_VOCABULARY = tiny_config(vocab_size=65)  # tp fills it up
# Each rank of tp has a copy of it.
ONE_HEAD = tiny_config(
    num_kv_heads=1, attention_gate=True, qk_norm="rms", qkv_bias=True, sliding_window=5, full_attention_interval=2
)
SHARED = "moe-scaled-inputs-chunks"


class Replicas:
    """Runs plans' generation on fresh ranks of the warm server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def generate(self, layout: GenerationLayout, *, model: ModelConfig, sabotage: str = "generate") -> list[Any]:
        """Return the responses of each rank."""
        num_training = layout.gpus if layout.is_colocated else 1
        plan = rl_plan(model, layout=layout, num_training=num_training)
        run_dir = self._engine.launch(plan, entrypoint=f"tests.native.generating:{sabotage}")
        return read_generated(run_dir, num_ranks=plan.layout.total_gpus)


@pytest.fixture
def replicas(engine: Engine) -> Replicas:
    return Replicas(engine)


def alone(model: ModelConfig) -> GenerationResult:
    return generator_of(rl_plan(model)).generate(requests(is_pinned=False), seed=1)


def tokens_by_sample(ranks: list[Any]) -> dict[int, list[int]]:
    return {sample: tokens for rank in ranks for sample, tokens, _ in rank}


def expected_tokens(model: ModelConfig) -> dict[int, list[int]]:
    return {response.sample: list(response.tokens) for response in alone(model).responses}


@pytest.mark.parametrize(
    ("layout", "model"),
    [
        pytest.param(GenerationLayout(gpus=2, tp=2), ODD_VOCABULARY, id="tp2"),
        pytest.param(GenerationLayout(gpus=2, tp=2), PARTS[SHARED], id="tp2-shared-experts"),
        pytest.param(GenerationLayout(gpus=2, tp=2), PARTS["moe-sinks-biases"], id="tp2-expert-biases"),
        pytest.param(GenerationLayout(gpus=2, tp=2), PARTS["latent-moe"], id="tp2-latent-experts"),
        pytest.param(GenerationLayout(gpus=2, tp=2), PARTS["mla-moe-mtp"], id="tp2-mla"),
        pytest.param(GenerationLayout(gpus=4, tp=4), tiny_config(), id="tp4-copies"),
        pytest.param(
            GenerationLayout(gpus=2, tp=2), ONE_HEAD, id="tp2-copies-gates-norms-windows", marks=pytest.mark.slow
        ),
        pytest.param(GenerationLayout(gpus=2, pp=2), tiny_config(), id="pp2"),
        pytest.param(GenerationLayout(gpus=2, pp=2), PARTS["gelu-layernorm-learned-positions"], id="pp2-tied"),
        pytest.param(GenerationLayout(gpus=2), tiny_config(), id="dp2"),
        pytest.param(GenerationLayout(gpus=4, tp=2, pp=2), tiny_config(), id="tp2pp2"),
        pytest.param(GenerationLayout(gpus=2, tp=2, is_colocated=False), tiny_config(), id="tp2apart"),
    ],
)
def test_ranks_generate_the_tokens_of_one(replicas: Replicas, layout: GenerationLayout, model: ModelConfig) -> None:
    ranks = replicas.generate(layout, model=model)

    generating = ranks if layout.is_colocated else ranks[1:]
    assert tokens_by_sample(generating) == expected_tokens(model)
    size = layout.tp * layout.pp
    for first in range(0, layout.gpus, size):
        replica = generating[first : first + size]
        assert len(replica[0]) == NUM_SAMPLES // layout.dp
        assert all(rank == replica[0] for rank in replica)


@pytest.mark.parametrize("pp", [1, 2])
def test_the_first_rank_of_a_tp_group_draws_for_all_where_draws_may_differ(replicas: Replicas, pp: int) -> None:
    layout = GenerationLayout(gpus=2 * pp, tp=2, pp=pp)

    ranks = replicas.generate(layout, model=tiny_config(), sabotage="with_draws_that_differ")

    assert tokens_by_sample(ranks[:1]) == expected_tokens(tiny_config())
    assert all(rank == ranks[0] for rank in ranks)  # log-probabilities as well


def test_ranks_that_only_train_belong_to_no_replica(replicas: Replicas) -> None:
    ranks = replicas.generate(GenerationLayout(gpus=1, is_colocated=False), model=tiny_config())

    assert ranks[0] is None
    assert tokens_by_sample(ranks[1:]) == expected_tokens(tiny_config())


@pytest.mark.parametrize(
    ("layout", "sabotage"),
    [
        pytest.param(GenerationLayout(gpus=2, tp=2), "with_everyones_first_part", id="tp2"),
        pytest.param(GenerationLayout(gpus=2, pp=2), "with_stages_in_the_wrong_order", id="pp2"),
        pytest.param(GenerationLayout(gpus=2), "with_numbers_by_place", id="dp2"),
    ],
)
def test_what_is_left_out_is_noticed(replicas: Replicas, layout: GenerationLayout, sabotage: str) -> None:
    ranks = replicas.generate(layout, model=tiny_config(), sabotage=sabotage)

    assert tokens_by_sample(ranks) != expected_tokens(tiny_config())
