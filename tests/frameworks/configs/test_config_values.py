from __future__ import annotations

from pathlib import Path

from pytest_nemoperf.frameworks.configs.config_values import config_digest, shown_config


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert config_digest({"a": 1, "b": {"c": 2, "d": 3}}) == config_digest({"b": {"d": 3, "c": 2}, "a": 1})


def test_a_digest_depends_on_each_value_and_on_the_order_of_a_list() -> None:
    contents = [{"a": [1, 2]}, {"a": [2, 1]}, {"a": ["1", 2]}, {"b": [1, 2]}, {"a": [1, 2], "b": None}]

    assert len({config_digest(content) for content in contents}) == len(contents)


def test_what_each_run_has_of_its_own_is_no_part_of_a_digest() -> None:
    content = {"model": "x", "train": {"steps": 10, "batch": 8}, "logger": {"dir": "a"}}
    other = {"model": "x", "train": {"steps": 99, "batch": 8}, "logger": {"dir": "b", "level": 2}}

    assert config_digest(content, without={"train.steps", "logger"}) == config_digest(
        other, without={"train.steps", "logger"}
    )
    assert config_digest(content, without={"steps"}) != config_digest(other, without={"steps"})


def test_a_file_is_shown_by_the_name_that_the_recipe_gives_it() -> None:
    assert shown_config(Path("recipes/grpo.yaml")) == "framework_config=recipes/grpo.yaml"
