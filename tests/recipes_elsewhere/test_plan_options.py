"""Plans of published layouts: each option beside the value of the framework's own recipe, and the table of the docs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.configs.bridge import load_bridge
from pytest_nemoperf.frameworks.configs.bridge_model import bridge_model
from pytest_nemoperf.frameworks.plans.megatron_bridge import LIBRARY, VANILLA
from pytest_nemoperf.frameworks.plans.megatron_provider import provider_problem, provider_values
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import pretraining_rows, rl_rows
from tests.recipes_elsewhere.plan_options import (
    Options,
    bridge_options,
    bridge_plans,
    bridge_recomputation,
    nemo_rl_options,
    nemo_rl_plans,
    nemo_rl_recomputation,
)

pytestmark = pytest.mark.elsewhere

DOCS: Final = Path(__file__).parents[2] / "docs" / "framework-plans.md"
PAGE: Final = "the page prints another value, or none, and the recipe has this one at this commit"
FOLLOWS: Final = "follows from a degree that the page prints otherwise"
ONE_SET: Final = "one set of hyperparameters in every framework"
CONSTANT: Final = "a plan's learning rate is constant"
REASONS: Final[Mapping[str, Mapping[str, str]]] = {
    "megatron_bridge": {
        "dataset.seq_length": PAGE,
        "ddp.average_in_collective": f"FSDP: {PAGE}",
        "ddp.data_parallel_sharding_strategy": f"FSDP: {PAGE}",
        "ddp.use_distributed_optimizer": "Kimi K2's recipe trains with Muon, which shards otherwise",
        "ddp.use_megatron_fsdp": PAGE,
        "model.account_for_embedding_in_pipeline_split": FOLLOWS,
        "model.account_for_loss_in_pipeline_split": FOLLOWS,
        "model.context_parallel_size": PAGE,
        "model.cp_comm_type": "theirs is Megatron's default, a ring, which layouts have no word for",
        "model.expert_model_parallel_size": PAGE,
        "model.mtp_num_layers": "rows without multi-token prediction have no recipe of their own",
        "model.pipeline_model_parallel_layout": (
            "layers a stage: theirs are lists made by hand, DeepSeek-V3's without counting the embedding; or pp and vp "
            "differ"
        ),
        "model.pipeline_model_parallel_size": PAGE,
        "model.recompute_method": "`full` is every block in a plan, theirs the first 5 of a stage",
        "model.recompute_modules": "`selective` is the attention core in a plan, theirs other parts",
        "model.recompute_num_layers": "as recompute_method",
        "model.sequence_parallel": FOLLOWS,
        "model.tensor_model_parallel_size": PAGE,
        "model.virtual_pipeline_model_parallel_size": PAGE,
        "optimizer.adam_eps": f"{ONE_SET}: DeepSeek-V4's is 1e-20",
        "optimizer.lr": ONE_SET,
        "optimizer.min_lr": CONSTANT,
        "optimizer.optimizer": f"{ONE_SET}: AdamW, theirs Muon for Kimi K2",
        "scheduler.end_weight_decay": ONE_SET,
        "scheduler.lr_decay_iters": "the steps of the run",
        "scheduler.lr_decay_style": CONSTANT,
        "scheduler.lr_warmup_iters": CONSTANT,
        "scheduler.start_weight_decay": ONE_SET,
        "tokenizer.tokenizer_model": "ours needs no files, and mock data no words",
        "tokenizer.tokenizer_type": "as tokenizer_model",
        "tokenizer.vocab_size": "ours is the model's; with theirs, its own vocab_size counts too",
        "train.global_batch_size": PAGE,
        "train.micro_batch_size": PAGE,
    },
    "nemo_rl": {
        "loss_fn.use_importance_sampling_correction": "on-policy plans correct only with an importance_cap",
        "policy.generation.vllm_cfg.async_engine": "ours only where NeMo RL needs it; an option changes it",
        "policy.generation.vllm_cfg.tensor_parallel_size": PAGE,
        "policy.logprob_batch_size": "a plan has one micro batch size; an option changes it",
        "policy.make_sequence_length_divisible_by": "ours is the least that tp and cp need",
        "policy.megatron_cfg.expert_model_parallel_size": PAGE,
        "policy.megatron_cfg.num_layers_in_first_pipeline_stage": (
            "61 layers: the stage with one layer less is the first of a plan, the last of theirs"
        ),
        "policy.megatron_cfg.num_layers_in_last_pipeline_stage": "as num_layers_in_first_pipeline_stage",
        "policy.megatron_cfg.optimizer.min_lr": CONSTANT,
        "policy.megatron_cfg.pipeline_model_parallel_size": PAGE,
        "policy.megatron_cfg.sequence_parallel": FOLLOWS,
        "policy.megatron_cfg.tensor_model_parallel_size": PAGE,
        "policy.model_name": "theirs is a sentence that sends to a guide",
        "policy.train_global_batch_size": PAGE,
    },
}
READ_BACK: Final = (
    "layout",
    "seq_len",
    "global_batch_size",
    "micro_batch_size",
    "precision",
    "recompute",
    "is_router_balanced",
    "seed",
    "rl",
)
"""Attributes of a plan that its options say."""
MIN_ROWS: Final = {"megatron_bridge": 186, "nemo_rl": 29}


@pytest.mark.parametrize(("framework", "compared"), [("megatron_bridge", bridge_options), ("nemo_rl", nemo_rl_options)])
def test_each_option_of_a_published_layout_is_the_recipe_s_or_differs_for_a_known_reason(
    framework: str, compared: Callable[[Path], Options], checkout_of: Callable[[str], Path]
) -> None:
    options = compared(checkout_of(framework))

    assert set(options.differ) == set(REASONS[framework])
    table = options.rendered(REASONS[framework])
    print(f"{framework}\n\n{table}\nrows left out: {dict(options.left_out)}")
    assert len(options.rows) == MIN_ROWS[framework]
    assert table in DOCS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_a_recipe_of_the_library_has_the_catalog_s_architecture(
    name: str, checkout_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout_of("megatron_bridge"))

    read = bridge_model(load_bridge(Path(LIBRARY[name]), options={}).config).model

    model = find_model(read) if isinstance(read, str) else read
    assert isinstance(model, ModelConfig)
    known = find_model(name)
    overridden: dict[str, Any] = {
        "vocab_size": known.vocab_size,
        "mtp_num_layers": known.mtp_num_layers,
        "is_mtp_shared": known.is_mtp_shared,
    }
    assert replace(model, name=name, **overridden) == known


@pytest.mark.parametrize("name", [name for name in model_catalog() if not provider_problem(find_model(name))])
def test_the_recipe_for_other_models_is_told_the_architecture(
    name: str, checkout_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout_of("megatron_bridge"))
    known = find_model(name)
    options = {**provider_values(known), "model.vocab_size": known.vocab_size}
    if known.max_positions is not None:
        options["model.seq_length"] = known.max_positions

    read = bridge_model(load_bridge(Path(VANILLA), options=options).config).model

    assert isinstance(read, ModelConfig)
    assert replace(read, name=name) == known


@pytest.mark.parametrize(("framework", "plans"), [("megatron_bridge", bridge_plans), ("nemo_rl", nemo_rl_plans)])
def test_a_published_layout_s_options_read_back_as_its_plan(
    framework: str,
    plans: Callable[[Path], list[tuple[Plan, str, Mapping[str, Any]]]],
    checkout_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout = checkout_of(framework)
    monkeypatch.chdir(checkout)
    found = plans(checkout)

    for plan, base, options in found:
        gpus = {plan.system: plan.layout.gpus} if plan.rl is None else {}
        recipe = Recipe(framework=framework, framework_config=base, framework_options=options, gpus=gpus)
        system = find_system(plan.system)
        read = resolve(
            complete_recipe(recipe, framework=builtin_frameworks()[framework], system=system).recipe, system=system
        )
        is_split = plan.layout.tp > 1 and plan.layout.sequence_parallel  # without effect at tp=1
        expected = replace(plan, layout=replace(plan.layout, sequence_parallel=is_split))
        for name in READ_BACK:
            assert getattr(read, name) == getattr(expected, name), name
        assert replace(read.model, name=plan.model.name) == plan.model

    assert len(found) == MIN_ROWS[framework]


@pytest.mark.parametrize(
    ("framework", "recomputation"),
    [("megatron_bridge", bridge_recomputation), ("nemo_rl", nemo_rl_recomputation)],
)
def test_shipped_rows_have_the_recomputation_of_the_framework_s_own_recipes(
    framework: str,
    recomputation: Callable[[Path], dict[str, str]],
    checkout_of: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkout = checkout_of(framework)
    monkeypatch.chdir(checkout)

    own = recomputation(checkout)

    shipped = {}
    for row in (*pretraining_rows(), *rl_rows()):
        if row.framework == framework and row.own_recompute:
            shipped[row.id] = row.own_recompute
    assert shipped == own
