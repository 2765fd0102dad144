"""Tests of models cut to fewer layers."""

from dataclasses import replace

import pytest

from pytest_nemoperf import Layout, Recipe, find_model
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.catalog import model_catalog
from pytest_nemoperf.models.components import FeedForward
from pytest_nemoperf.models.cut import cut_layers
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system


def test_deepseek_v3_keeps_one_dense_layer_and_multi_token_prediction() -> None:
    cut = cut_layers(find_model("deepseek-v3"), num_layers=4)

    assert cut.name == "deepseek-v3-4layers"
    assert [layer.feed_forward for layer in cut.layers] == [FeedForward.DENSE, *[FeedForward.MOE] * 3]
    assert cut.mtp_num_layers == 1


def test_dense_model_changes_in_name_and_layers_alone() -> None:
    full = find_model("llama3-8b")

    assert cut_layers(full, num_layers=4) == replace(full, name="llama3-8b-4layers", num_layers=4)


@pytest.mark.parametrize("name", model_catalog())
def test_every_kind_of_layer_is_left_in_the_smallest_cut(name: str) -> None:
    full = model_catalog()[name]
    for num_layers in range(1, full.num_layers):
        try:
            cut = cut_layers(full, num_layers=num_layers)
        except RecipeError:
            continue
        break

    assert cut.layer_counts.keys() == full.layer_counts.keys()
    assert cut.num_layers == len(cut.layers) < full.num_layers


@pytest.mark.parametrize(
    ("name", "num_layers", "words"),
    [
        ("gemma3-1b", 4, "its first 6 have: use num_layers=6 or more"),
        ("deepseek-v3", 1, "its first 2 have"),
        ("nemotron-h-8b", 7, "its first 8 have"),
        ("llama3.2-1b", 16, "cuts nothing off model llama3.2-1b, which has 16"),
    ],
)
def test_a_cut_without_a_kind_of_layer_is_refused(name: str, num_layers: int, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        cut_layers(find_model(name), num_layers=num_layers)


def test_recipe_with_num_layers_has_the_cut_in_its_case_id() -> None:
    recipe = Recipe(
        model="deepseek-v3", num_layers=4, layouts={"h100": Layout(gpus=1)}, seq_len=4096, global_batch_size=1
    )

    plan = resolve(recipe, system=find_system("h100"))

    assert plan.model.num_layers == 4
    assert plan.case == "pretrain-deepseek-v3-4layers-1n1g-torch-bf16-single-seq4096-gbs1-mbs1"


def test_num_layers_and_a_framework_file_contradict_each_other() -> None:
    with pytest.raises(RecipeError, match="cut the model there, or by framework_options"):
        Recipe(framework="automodel", framework_config="recipe.yaml", num_layers=4)
