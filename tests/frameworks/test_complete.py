from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.configs.config_values import ConfigValues
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.recipes.algorithms import Algorithm
from pytest_nemoperf.recipes.recipe import Precision, Recipe, Recompute
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system

H100 = find_system("h100")
FSDP = {"tp": 2, "dp_replicate": 1, "dp_shard": 0}
VALUES = ConfigValues(
    digest="abc",
    model="llama3-8b",
    degrees=FSDP,
    values={
        "seq_len": 4096,
        "global_batch_size": 64,
        "precision": Precision.BF16,
        "recompute": Recompute.FULL,
        "micro_batch_size": 2,
    },
)
THEIR_RL = RL(
    num_prompts_per_step=8,
    num_generations_per_prompt=4,
    prompt_len=1024,
    max_response_len=1024,
    response_lengths="sampled",
    algorithm=Algorithm(name="dapo", clip_high=0.28),
)


class Reader(CommandFramework):
    """Framework whose files all say the same, and which keeps what it was asked."""

    def __init__(self, values: ConfigValues) -> None:
        self.values = values
        self.asked: list[tuple[Path, Mapping[str, Any], Mapping[str, str]]] = []

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
        self.asked.append((path, options, env))
        return self.values


def recipe_of(**changes: Any) -> Recipe:
    return Recipe(**{"framework": "theirs", "framework_config": "x.yaml", "gpus": {"h100": 8}, **changes})


def completed(values: ConfigValues = VALUES, **changes: Any) -> Recipe:
    return complete_recipe(recipe_of(**changes), framework=Reader(values), system=H100).recipe


def test_what_the_recipe_leaves_open_is_taken_from_the_file() -> None:
    recipe = completed()

    assert recipe == recipe_of(
        model="llama3-8b",
        layouts={"h100": Layout(gpus=8, tp=2, dp_shard=4)},
        gpus={},
        seq_len=4096,
        global_batch_size=64,
        recompute=Recompute.FULL,
        micro_batch_size=2,
    )


def test_the_file_is_read_with_the_options_and_variables_of_the_recipe() -> None:
    reader = Reader(VALUES)

    complete_recipe(
        recipe_of(framework_options={"a.b": 1}, env={"DATA": "/data"}, gpus={"h100": 8}), framework=reader, system=H100
    )

    assert reader.asked == [(Path("x.yaml"), {"a.b": 1}, {"DATA": "/data"})]


def test_the_digest_is_handed_on() -> None:
    assert complete_recipe(recipe_of(), framework=Reader(VALUES), system=H100).digest == "abc"


def test_a_recipe_without_a_file_stays_as_it_is() -> None:
    recipe = Recipe(
        model="llama3-8b",
        layouts={"h100": Layout(gpus=8, dp_shard=8)},
        seq_len=64,
        global_batch_size=8,
        framework="theirs",
        framework_options={"a": 1},
    )

    result = complete_recipe(recipe, framework=None, system=H100)

    assert result.recipe is recipe
    assert result.digest == ""


def test_options_of_the_native_engine_are_refused() -> None:
    recipe = Recipe(
        model="llama3-8b",
        layouts={"h100": Layout(gpus=8, dp_shard=8)},
        seq_len=64,
        global_batch_size=8,
        framework_options={"overlap": True},
    )

    with pytest.raises(RecipeError, match="with framework='torch', the native engine, whose settings are fields"):
        complete_recipe(recipe, framework=None, system=H100)


@pytest.mark.parametrize("name", ["torchtitan", "trl"])
def test_frameworks_without_files_may_take_options(name: str) -> None:
    recipe = Recipe(
        model="llama3-8b",
        layouts={"h100": Layout(gpus=8, dp_shard=8)},
        seq_len=64,
        global_batch_size=8,
        framework=name,
        framework_options={"training.gc_freq": 10},
    )

    assert complete_recipe(recipe, framework=builtin_frameworks()[name], system=H100).recipe is recipe


def test_options_of_a_framework_that_takes_none_are_refused() -> None:
    recipe = Recipe(
        model="llama3-8b",
        layouts={"h100": Layout(gpus=8, dp_shard=8)},
        seq_len=64,
        global_batch_size=8,
        framework="megatron",
        framework_options={"overlap": True},
    )

    with pytest.raises(RecipeError, match="with framework='megatron', which takes none"):
        complete_recipe(recipe, framework=builtin_frameworks()["megatron"], system=H100)


def test_an_unknown_framework_can_not_read_a_file() -> None:
    with pytest.raises(RecipeError, match=r"framework_config=x\.yaml with framework='theirs', which is not known here"):
        complete_recipe(recipe_of(), framework=None, system=H100)


def test_a_framework_that_reads_no_files_is_refused() -> None:
    with pytest.raises(RecipeError, match="which reads no recipe files; name the framework that the file is for"):
        complete_recipe(recipe_of(framework="mine"), framework=CommandFramework(), system=H100)


def test_a_value_that_the_recipe_repeats_is_no_contradiction() -> None:
    assert completed(seq_len=4096).seq_len == 4096


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"precision": Precision.FP32}, "says precision=bf16, and the recipe precision=fp32", id="format"),
        pytest.param({"seq_len": 8192}, "says seq_len=4096, and the recipe seq_len=8192", id="length"),
        pytest.param({"recompute": Recompute.SELECTIVE}, "says recompute=full, and the recipe", id="recomputation"),
    ],
)
def test_a_contradiction_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=f"{told}.*leave .* out of the recipe, or change it by framework_options"):
        completed(**changes)


def test_the_same_model_under_another_name_is_no_contradiction() -> None:
    assert completed(model=replace(find_model("llama3-8b"), name="ours")).model_config.name == "ours"


def test_another_model_is_refused() -> None:
    with pytest.raises(RecipeError, match="trains llama3-8b, and the recipe says model=llama3-70b, which is another"):
        completed(model="llama3-70b")


def test_everything_that_is_missing_is_asked_for_in_one_message() -> None:
    values = ConfigValues(
        digest="abc",
        degrees=FSDP,
        values={"global_batch_size": 64},
        unread={"model": "policy.model_name=/here is unknown", "seq_len": "length is not set", "precision": "fp16"},
    )

    with pytest.raises(RecipeError) as caught:
        completed(values, gpus={})

    assert str(caught.value) == (
        "framework_config=x.yaml does not tell model (policy.model_name=/here is unknown) and seq_len (length is not "
        "set) and precision (fp16) and gpus (the launch says it, e.g. gpus={'h100': 8}): give model=, seq_len=, "
        "precision=, gpus= in the recipe; precision=bf16 would count as left out: set what means it by "
        "framework_options instead"
    )


def test_what_can_not_be_read_may_be_given() -> None:
    values = replace(VALUES, model="", values={"global_batch_size": 64}, unread={"model": "?", "precision": "?"})

    recipe = completed(values, model="llama3-70b", seq_len=1024, precision=Precision.FP32)

    assert (recipe.model, recipe.seq_len, recipe.precision) == ("llama3-70b", 1024, Precision.FP32)


def test_the_layouts_may_be_given_where_the_degrees_can_not_be_read() -> None:
    values = replace(VALUES, degrees={}, unread={"layouts": "the pipeline is unknown"})
    layout = Layout(gpus=8, dp_shard=8)

    assert completed(values, layouts={"h100": layout}, gpus={}).layouts == {"h100": layout}
    with pytest.raises(RecipeError, match=r"does not tell layouts \(the pipeline is unknown\): give layouts= in"):
        completed(values)


def test_each_system_gets_the_layout_of_its_gpus() -> None:
    layouts = completed(gpus={"h100": 8, "gb200": 16}).layouts

    assert layouts == {"h100": Layout(gpus=8, tp=2, dp_shard=4), "gb200": Layout(gpus=16, tp=2, dp_shard=8)}


def test_the_optimizer_s_states_are_shared_out_only_among_ranks_with_the_same_weights() -> None:
    values = replace(VALUES, degrees={"tp": 2, "dp_replicate": 0, "dp_shard": 1, "shard_optimizer": True})

    layouts = completed(values, gpus={"h100": 8, "gb200": 2}).layouts

    assert layouts == {
        "h100": Layout(gpus=8, tp=2, dp_replicate=4, shard_optimizer=True),
        "gb200": Layout(gpus=2, tp=2),
    }


def test_degrees_that_do_not_divide_the_gpus_are_shown_with_the_arithmetic() -> None:
    with pytest.raises(RecipeError, match=r"x\.yaml on gpus=9: gpus=9 is not a multiple of tp\*pp\*cp\*dp_replicate"):
        completed(gpus={"h100": 9})


def test_the_ranks_of_the_file_are_those_of_the_session_s_system() -> None:
    recipe = completed(replace(VALUES, gpus=16), gpus={})

    assert recipe.layouts == {"h100": Layout(gpus=16, tp=2, dp_shard=8)}


def test_other_ranks_than_those_of_the_file_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"runs on 16 ranks, and the recipe says gpus=\{'h100': 8\}; leave gpus out"):
        completed(replace(VALUES, gpus=16))


def test_a_layout_that_the_file_makes_too_is_no_contradiction() -> None:
    layout = Layout(gpus=8, tp=2, dp_shard=4)

    assert completed(layouts={"h100": layout}, gpus={}).layouts == {"h100": layout}


def test_another_layout_than_the_file_s_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"makes the layout fsdp4tp2 of 8 ranks, and the recipe's for h100 is fsdp8"):
        completed(layouts={"h100": Layout(gpus=8, dp_shard=8)}, gpus={})


def test_ranks_that_generate_apart_are_no_part_of_the_training() -> None:
    values = replace(
        VALUES, rl=THEIR_RL, values={**VALUES.values, "global_batch_size": 32}, generation={"tp": 2, "gpus": 8}
    )
    apart = replace(values, generation={"tp": 2, "gpus": 8, "is_colocated": False}, gpus=8)

    together = completed(values).layouts["h100"]
    assert together.generation == GenerationLayout(gpus=8, tp=2)
    assert completed(apart, gpus={}).layouts["h100"] == completed(apart, gpus={"h100": 16}).layouts["h100"]
    assert completed(apart, gpus={}).layouts["h100"].total_gpus == 16
    with pytest.raises(RecipeError, match="runs on 16 ranks"):
        completed(apart, gpus={"h100": 8})


def test_ranks_that_generate_apart_leave_some_to_training() -> None:
    apart = replace(VALUES, rl=THEIR_RL, generation={"tp": 2, "gpus": 8, "is_colocated": False})

    with pytest.raises(RecipeError, match="generates on 8 ranks apart, which leaves none of 4 to training"):
        completed(apart, gpus={"h100": 4})


def test_reinforcement_learning_is_the_file_s() -> None:
    values = replace(VALUES, rl=THEIR_RL, generation={"tp": 1})

    assert completed(values).rl == THEIR_RL
    assert completed(values, rl=THEIR_RL).rl == THEIR_RL


def test_other_reinforcement_learning_is_refused() -> None:
    values = replace(VALUES, rl=THEIR_RL, generation={"tp": 1})

    with pytest.raises(RecipeError, match="says prompt_len=1024, and the recipe's rl prompt_len=512; leave rl out"):
        completed(values, rl=replace(THEIR_RL, prompt_len=512))
    with pytest.raises(RecipeError, match="has no reinforcement learning, and the recipe has rl"):
        completed(VALUES, rl=THEIR_RL)


def test_reinforcement_learning_that_can_not_be_read_may_be_given() -> None:
    values = replace(VALUES, unread={"rl": "its algorithm is unknown"})

    assert completed(values, rl=THEIR_RL).rl == THEIR_RL
    with pytest.raises(RecipeError, match=r"does not tell rl \(its algorithm is unknown\)"):
        completed(values)
