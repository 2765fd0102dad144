from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.pricing.price import price_plan
from pytest_nemoperf.published.recipes import RowRecipe, recipe_of, unpriced_recipe_of
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.published.suite import published_recipes
from pytest_nemoperf.recipes.memory_rules import megatron_rules
from pytest_nemoperf.recipes.recipe import Precision, Recipe, Recompute
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.published.rows import SYSTEMS, all_rows


def row_of(name: str) -> PublishedRow:
    (row,) = (row for row in all_rows() if row.id == name)
    return row


@cache
def made(name: str) -> Recipe:
    found = recipe_of(row_of(name))
    assert found.recipe is not None, found.reason
    return found.recipe


def test_a_row_of_megatron_bridge_becomes_its_recipe() -> None:
    recipe = made("pt0281")

    assert recipe.model_config.name == "llama3-8b"
    assert recipe.framework == "megatron_bridge"
    assert recipe.precision is Precision.FP8_CS
    assert recipe.layouts == {"h100": Layout(gpus=8, dp_shard=8)}
    assert (recipe.seq_len, recipe.global_batch_size, recipe.micro_batch_size) == (8192, 128, 1)
    assert recipe.flops_convention == "megatron-bridge-25.09"
    assert recipe.variant == "pub.25.11.pt0281"
    assert recipe.unstated == ("recompute",)
    assert "tflops_per_sec_per_gpu 744, tokens_per_sec_per_gpu 14451" in recipe.notes[0]


def test_every_recipe_resolves_and_has_an_id_of_its_own() -> None:
    cases: Counter[str] = Counter()
    for row in all_rows():
        recipe = unpriced_recipe_of(row).recipe
        if recipe is not None:
            cases[resolve(recipe, system=find_system(row.system)).case] += 1

    assert len(cases) > 480
    assert set(cases.values()) == {1}


@pytest.mark.parametrize(
    ("name", "framework"),
    [("pt0281", "megatron_bridge"), ("pt0661", "megatron"), ("pt0598", "automodel"), ("rl000", "nemo_rl")],
)
def test_a_framework_runs_the_rows_of_its_kind(name: str, framework: str) -> None:
    assert made(name).framework == framework


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pt0783", "maxtext trains with JAX, and no framework here does"),
        ("pt0593", "LoRA trains adapters beside frozen weights, and a recipe trains all weights"),
        ("pt0501", "fine-tuning packs samples whose lengths the page does not print"),
        ("rl094", "agents take many turns with tools between them"),
        ("pt0030", "experts drop the tokens above their capacity"),
        (
            "pt1205",
            "its GPUs are 8x H100 96GB HBM2e 500W (Grand Teton), with other memory and power than those of h100",
        ),
        ("pt1228", "the page prints no sequence length"),
        ("pt1122", "the page prints no tp, pp or cp"),
        ("pt0567", "no catalog model is printed as 'Wan 2.1 14B'"),
        ("pt1181", "global_batch_size=1 is not a multiple of micro_batch_size*dp_replicate*dp_shard"),
        ("rl093", "ep=16 does not divide dp_shard*cp*tp (8*1*1=8)"),
    ],
)
def test_a_row_that_leaves_its_work_open_has_none_with_the_reason(name: str, reason: str) -> None:
    found = recipe_of(row_of(name))

    assert found.recipe is None
    assert reason in found.reason


def test_an_unprinted_batch_makes_no_recipe() -> None:
    found = recipe_of(replace(row_of("pt0281"), global_batch_size=None))

    assert found == RowRecipe(recipe=None, reason="the page prints no global batch")


def test_a_scaled_down_run_trains_a_cut_model_under_a_name_of_its_own() -> None:
    recipe = made("pt1066")

    assert recipe.model_config.num_layers == 62
    assert recipe.model_config.name == "llama3.1-405b-62layers"


def test_layers_that_a_hybrid_leaves_out_are_unknown() -> None:
    found = recipe_of(replace(row_of("pt1161"), num_layers=50))

    assert found.recipe is None
    assert "50 of 118 layers, and not which kinds of them are left out" in found.reason


def test_more_layers_than_the_model_has_are_refused() -> None:
    assert "the page prints 200 layers" in recipe_of(replace(row_of("pt1066"), num_layers=200)).reason


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("pt0281", Precision.FP8_CS),
        ("pt0284", Precision.FP8_CS),  # 25.09 prints none: 725 TFLOP/s/GPU, and 744 with FP8-CS in 25.11
        ("pt0013", Precision.MXFP8),  # inside parentheses on B200
        ("pt0661", Precision.FP8_DS),
        ("rl046", Precision.FP8_SC),
        ("pt0598", Precision.BF16),
    ],
)
def test_precision_is_the_printed_one_or_the_frameworks(name: str, precision: Precision) -> None:
    assert made(name).precision is precision


def test_what_a_page_does_not_print_is_noted() -> None:
    assert "not on the page: precision fp8_cs, by the page's remark" in made("pt0284").notes[-1]
    assert "the scaling of FP8: delayed scaling" in made("pt0661").notes[-1]


def test_unshared_states_are_unstated_only_where_ranks_have_the_same_weights() -> None:
    assert made("pt0281").unstated == ("recompute",)
    assert made("pt0661").unstated == ("recompute", "shard_optimizer")
    assert made("pt0661").layouts["h100"].shard_optimizer


def test_recomputation_is_that_of_the_framework_s_own_recipe() -> None:
    recipe = made("pt0385")
    plan = resolve(replace(recipe, unstated=()), system=find_system("h100"))

    assert recipe.recompute is Recompute.NONE
    assert "recomputation none, as in NVIDIA-NeMo/Megatron-Bridge's own recipe for it" in recipe.notes[-1]
    price = price_plan(plan, system=find_system("h100"), baseline=None, rules=megatron_rules(plan))
    assert price.is_fitting is False  # so that the least that fits would be another


def test_recomputation_of_a_row_without_such_a_recipe_is_the_least_that_fits_by_pricing() -> None:
    recipe = made("pt0284")
    system = find_system("h100")
    fits = {}
    for recompute in Recompute:
        plan = resolve(replace(recipe, recompute=recompute, unstated=()), system=system)
        fits[recompute] = price_plan(plan, system=system, baseline=None, rules=megatron_rules(plan)).is_fitting

    assert fits == {Recompute.NONE: False, Recompute.SELECTIVE: False, Recompute.FULL: True}
    assert recipe.recompute is Recompute.FULL
    assert "recomputation full, the least that fits by our pricing" in recipe.notes[-1]


def test_experts_are_balanced_where_pages_say_so() -> None:
    assert made("pt0409").is_router_balanced
    assert not made("pt0926").is_router_balanced
    assert "routing that is not balanced over the experts, an assumption" in made("pt0926").notes[-1]
    assert not made("pt0281").is_router_balanced  # no experts


def test_the_drafts_rows_are_steps_of_grpo_with_both_backends() -> None:
    megatron = made("rl095")
    dtensor = made("rl096")

    assert megatron.framework_options == {"backend": "megatron"}
    assert megatron.layouts["h100"] == Layout(
        gpus=16, pp=2, dp_replicate=8, shard_optimizer=True, generation=GenerationLayout(gpus=16)
    )
    assert dtensor.framework_options == {"backend": "dtensor"}
    assert dtensor.layouts["h100"] == Layout(gpus=16, dp_shard=16, generation=GenerationLayout(gpus=16))
    for recipe in (megatron, dtensor):
        assert recipe.rl is not None
        assert (recipe.rl.num_prompts_per_step, recipe.rl.num_generations_per_prompt) == (64, 32)
        assert recipe.rl.algorithm_config.kl_coef == pytest.approx(0.01)
        assert recipe.rl.dataset == "OpenMathInstruct-2"
    assert "1157 tokens a sample, 101 of them prompt" in megatron.notes[0]
    assert "1330 tokens a sample, 274 of them prompt" in dtensor.notes[0]


def test_memory_that_is_counted_from_below_is_not_said_to_fit() -> None:
    assert (
        "recomputation none, the least that fits by our pricing, which counts activations from below"
        in (made("pt0543").notes[-1])
    )


def test_one_step_off_half_of_the_gpus_generate() -> None:
    layout = made("rl001").layouts["h100"]

    assert (layout.gpus, layout.total_gpus) == (8, 16)
    assert layout.generation == GenerationLayout(gpus=8, is_colocated=False)
    assert "8 of the 16 GPUs train and as many generate" in made("rl001").notes[-1]


def test_generation_has_the_printed_precision() -> None:
    for row, precision in (("rl001", "bf16"), ("rl046", "fp8")):
        rl = made(row).rl
        assert rl is not None
        assert rl.generation_precision == precision


def test_generation_in_a_precision_that_vllm_lacks_has_no_recipe() -> None:
    row = row_of("rl000")
    assert row.rollouts is not None

    found = recipe_of(replace(row, rollouts=replace(row.rollouts, precision="NVFP4")))

    assert found.reason == "precision 'NVFP4' of generation is none of BF16, FP8"


def test_an_unknown_number_of_samples_leaves_prompts_open() -> None:
    row = row_of("rl000")
    assert row.rollouts is not None

    found = recipe_of(replace(row, rollouts=replace(row.rollouts, num_samples=1000)))

    assert found.reason == "the page prints no responses to a prompt, and 1000 samples imply none"


@pytest.mark.parametrize("system", SYSTEMS)
def test_recipes_of_a_system_are_its_rows_by_readable_names(system: str) -> None:
    recipes = published_recipes(system)

    assert len(list(recipes)) == len(recipes) == len(set(recipes))
    for name in recipes:
        row = recipes.row(name)
        assert name.endswith(f"-{row.id}")
        assert f"-{system}-" in name


def test_drafts_come_first_and_contradictory_rows_not_at_all() -> None:
    recipes = published_recipes("h100")

    assert list(recipes)[:2] == ["llama3.1-8b-h100-v0.4-bf16-rl095", "llama3.1-8b-h100-v0.4-bf16-rl096"]
    assert not [name for name in recipes if name.endswith("-pt0028")]
    assert "llama3-8b-h100-25.11-fp8_cs-pt0281" in recipes
    assert recipes["llama3-8b-h100-25.11-fp8_cs-pt0281"] == made("pt0281")


def test_systems_without_rows_have_no_recipes_and_unknown_ones_are_refused() -> None:
    assert list(published_recipes("cpu")) == []
    with pytest.raises(RecipeError, match=r"h999"):
        published_recipes("h999")


def test_a_name_no_row_has_is_refused_with_a_hint() -> None:
    with pytest.raises(RecipeError, match=r"is no published row of h100; did you mean"):
        published_recipes("h100")["llama3-8b-h100-25.11-fp8_cs-pt0282"]
