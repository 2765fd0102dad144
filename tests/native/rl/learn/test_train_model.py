"""TrainModel computes the same in every layout, and the same as a few lines of plain torch."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig, value_model
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.rl.learn.objective import policy_terms
from pytest_nemoperf.native.rl.learn.train_model import TrainModel
from pytest_nemoperf.recipes.recipe import Plan
from tests.native.engine import MODEL, Engine
from tests.native.families import PARTS
from tests.native.learning import (
    Findings,
    findings,
    make_samples,
    make_terms,
    objective,
    read_findings,
    read_lengths,
)
from tests.native.rl_plans import learning_plan
from tests.native.tiny import CPU, build

TOLERANCE = 1e-5
ALONE = Layout(gpus=1)
ZERO_BUBBLE: Any = {"pp_schedule": "zero_bubble"}
LAYOUTS: dict[str, tuple[Layout, dict[str, Any]]] = {
    "fsdp2": (Layout(gpus=2, dp_shard=2), {}),
    "ddp2": (Layout(gpus=2, dp_replicate=2), {}),
    "hsdp2x2": (Layout(gpus=4, dp_replicate=2, dp_shard=2), {}),
    "tp2": (Layout(gpus=2, tp=2), {}),
    "tp2nosp": (Layout(gpus=2, tp=2, sequence_parallel=False), {}),
    "cp2": (Layout(gpus=2, cp=2), {}),
    "cp2a2a": (Layout(gpus=2, cp=2, cp_comm="a2a"), {}),
    "pp2": (Layout(gpus=2, pp=2), {}),
    "pp2vp2": (Layout(gpus=2, pp=2, vp=2), {"model": replace(MODEL, num_layers=4)}),
    "zb2": (Layout(gpus=2, pp=2, **ZERO_BUBBLE), {}),
    "tp2cp2": (Layout(gpus=4, tp=2, cp=2), {}),
    "fsdp2tp2": (Layout(gpus=4, dp_shard=2, tp=2), {}),
    "fsdp2pp2": (Layout(gpus=4, dp_shard=2, pp=2), {}),
    "fsdp2-recompute": (Layout(gpus=2, dp_shard=2), {"recompute": "full"}),
    "fsdp2ep2": (Layout(gpus=2, dp_shard=2, ep=2), {"model": PARTS["moe"]}),
}


def cases(*ids: str, slow: tuple[str, ...]) -> list[Any]:
    """Return some of the layouts by id."""
    fast = [pytest.param(*LAYOUTS[name], id=name) for name in ids]
    return [*fast, *[pytest.param(*LAYOUTS[name], id=name, marks=pytest.mark.slow) for name in slow]]


# Padded rows of every axis. Variants of an axis have packed rows in the table below, which ask more of them. Products
# of axes cut rows and models as each axis does; tests/native/parallel/test_products.py compares them in pre-training.
PADDED = cases(
    *("fsdp2", "tp2", "cp2", "pp2", "fsdp2-recompute", "fsdp2ep2"),
    slow=("ddp2", "hsdp2x2", "tp2nosp", "cp2a2a", "pp2vp2", "zb2", "tp2cp2", "fsdp2tp2", "fsdp2pp2"),
)
# Without layouts that differ from others in what rows don't touch. tp and cp together round the lengths of rows.
PACKED = cases(
    *("ddp2", "tp2nosp", "cp2", "cp2a2a", "pp2vp2", "zb2", "tp2cp2", "fsdp2ep2"),
    slow=("fsdp2tp2",),
)


@cache
def alone(model: ModelConfig) -> Findings:
    """Return one process's findings for the model and the usual batch, one row after the other, without tricks."""
    return findings(learning_plan(ALONE, model=model, micro_batch_size=1), mesh=RankMesh())


def found_by(engine: Engine, plan: Plan, *, entrypoint: str = "main") -> list[Findings]:
    run_dir = engine.launch(plan, entrypoint=f"tests.native.learning:{entrypoint}")
    return read_findings(run_dir, num_ranks=plan.layout.gpus)


def largest_difference(ours: Findings, theirs: Findings) -> float:
    """Return the largest difference of a log-probability, or relative one of a loss or gradient norm."""
    logprobs = [
        abs(mine - other)
        for name in ("before", "after", "reference")
        for my_row, other_row in zip(getattr(ours, name), getattr(theirs, name), strict=True)
        for mine, other in zip(my_row, other_row, strict=True)
    ]
    numbers = [
        abs(mine - other) / abs(other)
        for my_pair, other_pair in zip(ours.updates, theirs.updates, strict=True)
        for mine, other in zip(my_pair, other_pair, strict=True)
    ]
    return float(max(logprobs + numbers))


@pytest.mark.parametrize(("layout", "changes"), PADDED)
def test_a_layout_learns_what_one_process_learns(engine: Engine, layout: Layout, changes: dict[str, Any]) -> None:
    plan = learning_plan(layout, **changes)
    expected = alone(plan.model)

    ranks = found_by(engine, plan)

    assert max(largest_difference(found, expected) for found in ranks) <= TOLERANCE


@pytest.mark.parametrize(("layout", "changes"), PACKED)
def test_packed_rows_teach_what_padded_ones_teach_one_process(
    engine: Engine, layout: Layout, changes: dict[str, Any]
) -> None:
    plan = learning_plan(layout, is_packed=True, **changes)
    expected = alone(plan.model)

    first, *others = found_by(engine, plan)

    assert largest_difference(first, expected) <= TOLERANCE
    assert all(found == first for found in others)  # exactly


def test_a_pipeline_keeps_nothing_of_rows_of_other_lengths(engine: Engine) -> None:
    run_dir = engine.launch(learning_plan(Layout(gpus=2, pp=2)), entrypoint="tests.native.learning:with_many_lengths")

    for rank in read_lengths(run_dir, num_ranks=2):
        assert rank["num_passes"] == 0
        assert rank["again"] == rank["first"]


@pytest.mark.parametrize(
    ("layout", "changes"),
    [
        pytest.param(Layout(gpus=2, pp=2), {"model": replace(MODEL, tied_embeddings=True)}, id="tied"),
        pytest.param(Layout(gpus=2, dp_replicate=2), {"micro_batch_size": 2}, id="two-rows"),
        pytest.param(Layout(gpus=2, pp=2), {"micro_batch_size": 1}, id="single-rows-of-a-pipeline"),
        pytest.param(Layout(gpus=2, dp_shard=2), {"is_compiled": True}, id="compiled", marks=pytest.mark.slow),
        pytest.param(Layout(gpus=2, dp_shard=2), {"recompute": "selective", "is_packed": True}, id="recomputed-cores"),
        pytest.param(Layout(gpus=2, pp=2), {"recompute": "full", "is_packed": True}, id="recomputed-stages"),
        pytest.param(Layout(gpus=2, cp=2), {"model": PARTS["moe-sinks-biases"], "is_packed": True}, id="windows"),
        pytest.param(Layout(gpus=2, cp=2), {"model": PARTS["mla-without-query-latent"], "is_packed": True}, id="mla"),
        pytest.param(Layout(gpus=2, tp=2), {"model": value_model(MODEL)}, id="values-tp2"),
        pytest.param(Layout(gpus=2, tp=2, sequence_parallel=False), {"model": value_model(MODEL)}, id="values-nosp"),
        pytest.param(Layout(gpus=2, cp=2), {"model": value_model(MODEL)}, id="values-cp2"),
        pytest.param(Layout(gpus=2, pp=2), {"model": value_model(MODEL)}, id="values-pp2"),
        pytest.param(  # values of fsdp2 are in test_policy_update.py
            Layout(gpus=4, dp_shard=2, pp=2),
            {"model": value_model(MODEL)},
            id="values-fsdp2pp2",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_variants_of_models_and_rows_do_so_too(engine: Engine, layout: Layout, changes: dict[str, Any]) -> None:
    plan = learning_plan(layout, **changes)
    expected = alone(plan.model)

    ranks = found_by(engine, plan)

    assert max(largest_difference(found, expected) for found in ranks) <= TOLERANCE


@pytest.mark.parametrize(
    ("layout", "changes", "sabotage"),
    [
        pytest.param(Layout(gpus=2, dp_shard=2), {}, "with_padding_first", id="padding-is-seen"),
        pytest.param(Layout(gpus=2, dp_replicate=2), {}, "with_everyones_first_share", id="same-samples"),
        pytest.param(Layout(gpus=2, dp_shard=2), {"is_packed": True}, "with_one_sample_a_row", id="others-are-seen"),
        pytest.param(Layout(gpus=2, cp=2), {}, "with_everyones_first_piece", id="same-pieces"),
        pytest.param(Layout(gpus=2, pp=2), {"is_packed": True}, "with_positions_of_the_last", id="wrong-positions"),
    ],
)
def test_what_goes_wrong_is_noticed(engine: Engine, layout: Layout, changes: dict[str, Any], sabotage: str) -> None:
    plan = learning_plan(layout, **changes)

    found, *_ = found_by(engine, plan, entrypoint=sabotage)

    assert largest_difference(found, alone(plan.model)) > 10 * TOLERANCE


@pytest.mark.parametrize("part", PARTS)
def test_packed_rows_of_every_kind_of_part_say_what_padded_ones_say(part: str) -> None:
    packed = findings(learning_plan(ALONE, model=PARTS[part], is_packed=True), mesh=RankMesh())

    assert largest_difference(packed, alone(PARTS[part])) <= TOLERANCE


def test_log_probabilities_are_those_of_the_logits_over_the_temperature() -> None:
    plan = learning_plan(ALONE, temperature=0.7, model=replace(MODEL, final_softcap=5.0))
    samples = make_samples(vocab_size=plan.model.vocab_size)
    model = build(replace(plan, seq_len=samples.tokens_NS.shape[1]))

    ours = TrainModel(plan, mesh=RankMesh(), device=CPU).logprobs(samples)

    with torch.no_grad():
        logprobs = (model.logits(samples.tokens_NS) / 0.7).log_softmax(-1)
    expected = torch.zeros(samples.tokens_NS.shape)
    expected[:, 1:] = logprobs[:, :-1].gather(-1, samples.tokens_NS[:, 1:, None])[..., 0]
    torch.testing.assert_close(ours, expected * samples.response_mask_NS(), rtol=0, atol=1e-5)


def test_updates_are_those_of_a_plain_loop() -> None:
    plan = learning_plan(ALONE)
    samples = make_samples(vocab_size=plan.model.vocab_size)
    terms = make_terms(samples, logprobs=torch.zeros(samples.tokens_NS.shape), numbers=range(8))
    model = build(replace(plan, seq_len=samples.tokens_NS.shape[1]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    expected = []
    for _ in range(2):
        optimizer.zero_grad()
        every = model.logits(samples.tokens_NS).log_softmax(-1)[:, :-1]
        chosen = every.gather(-1, samples.tokens_NS[:, 1:, None])[..., 0]
        loss = -(terms[:, 1:, 0] * terms[:, 1:, 1] * chosen.exp()).sum()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        expected += [loss.item(), grad_norm.item()]

    learner = TrainModel(plan, mesh=RankMesh(), device=CPU, objective=objective)
    pairs = [learner.update(samples, numbers=range(8), terms_NSK=terms) for _ in range(2)]

    assert [number.item() for pair in pairs for number in pair] == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_any_response_token_teaches_nothing() -> None:
    plan = learning_plan(ALONE)
    samples = make_samples(vocab_size=plan.model.vocab_size)
    learner = TrainModel(plan, mesh=RankMesh(), device=CPU, objective=objective)
    terms = torch.zeros(*samples.tokens_NS.shape, 3)

    loss, grad_norm = learner.update(samples, numbers=range(3, 4), terms_NSK=terms)

    assert (loss.item(), grad_norm.item()) == (0.0, 0.0)
    assert learner.logprobs(samples).isfinite().all()


def test_an_algorithm_brings_its_objective() -> None:
    plan = learning_plan(ALONE)
    assert plan.rl is not None
    algorithm = plan.rl.algorithm_config
    samples = make_samples(vocab_size=plan.model.vocab_size)
    learner = TrainModel(plan, mesh=RankMesh(), device=CPU)
    before = learner.logprobs(samples)
    terms = policy_terms(
        samples,
        numbers=range(8),
        advantages=torch.ones(8),
        old_logprobs_NS=before,
        reference_logprobs_NS=before - 0.5,
        algorithm=algorithm,
    )

    loss, _ = learner.update(samples, numbers=range(8), terms_NSK=terms)

    divergence = math.exp(-0.5) - 1 + 0.5  # k3 of a log-ratio of -0.5
    assert loss.item() == pytest.approx(-1 + algorithm.kl_coef * divergence, rel=1e-4)


def test_a_reference_keeps_its_weights_and_no_gradients() -> None:
    reference = TrainModel(learning_plan(ALONE), mesh=RankMesh(), device=CPU, is_trainable=False)

    assert not any(weight.requires_grad for weight in reference.named_weights().values())
