from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.yaml_file import YamlConfig, load_inherited, load_yaml, read_text, set_option


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def loaded(path: Path, **arguments: Any) -> dict[str, Any]:
    config, _ = load_inherited(path, **{"options": {}, "env": {}, **arguments})
    return dict(config.data)


def config_of(**data: Any) -> YamlConfig:
    return YamlConfig(data, subject="x.yaml")


def test_values_are_read_by_dotted_names() -> None:
    config = config_of(a={"b": {"c": 3, "d": None}}, e=1)

    assert config.get("a.b.c") == 3
    assert config.get("a.b.d", 7) == 7
    assert config.get("e.f", 8) == 8
    assert config.section("a.b").count("c") == 3
    assert config.section("none").data == {}


def test_a_value_of_the_wrong_kind_is_refused_with_its_name() -> None:
    config = config_of(a={"text": "x", "number": 2.5, "zero": 0})

    for read, told in (
        (lambda: config.section("a.text"), "x.yaml: a.text='x' must be a section"),
        (lambda: config.count("a.number"), "x.yaml: a.number=2.5 must be a whole number >= 1"),
        (lambda: config.count("a.zero"), "x.yaml: a.zero=0 must be a whole number >= 1"),
        (lambda: config.number("a.text", 1.0), "x.yaml: a.text='x' must be a number"),
        (lambda: config.flag("a.text"), "x.yaml: a.text='x' must be true or false"),
        (lambda: config.text("a.zero"), "x.yaml: a.zero=0 must be a text"),
        (lambda: config.section("a").count("number"), "x.yaml: a: number=2.5 must be a whole number >= 1"),
    ):
        with pytest.raises(RecipeError) as caught:
            read()
        assert str(caught.value) == told


def test_numbers_as_people_write_them_are_taken() -> None:
    config = config_of(float=8.0, none="None", small="1e-6", whole=3)

    assert config.count("float") == 8
    assert config.count("none", 5) == 5
    assert config.number("small", 0.0) == 1e-6
    assert config.number("whole", 0.0) == 3
    assert config.flag("absent", default=True)
    assert config.text("absent") == ""


def test_a_file_is_loaded_without_running_anything(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "a: !!python/object/apply:os.getcwd []\n")

    with pytest.raises(RecipeError, match=r"x\.yaml is no YAML: could not determine a constructor"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param("a: [", "is no YAML: while parsing", id="no YAML"),
        pytest.param("- 1\n- 2\n", "holds a list instead of sections of settings; name a recipe file", id="a list"),
        pytest.param("only words\n", "holds a text instead of sections", id="a text"),
        pytest.param("", "holds nothing instead of sections of settings", id="empty"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        load_yaml(write(tmp_path / "x.yaml", text))


def test_a_file_that_can_not_be_read_is_named_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml can't be read from /.*: No such file or directory; give its"):
        read_text(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="is no text in UTF-8; name the recipe file"):
        read_text(tmp_path / "binary")


@pytest.mark.parametrize("name", ["yaml", "omegaconf"])
def test_a_missing_reader_is_asked_for_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = write(tmp_path / "x.yaml", "a: 1\n")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == name else find_spec(asked))

    with pytest.raises(
        RecipeError, match=rf"needs {name}, which is not installed; .*pip install 'pytest-nemoperf\[configs\]'"
    ):
        loaded(path)


def test_an_option_makes_the_sections_on_its_way() -> None:
    data: dict[str, Any] = {"a": {"b": 1}, "c": 2}

    set_option(data, "--a.b", 3)
    set_option(data, "++c.d.e", [4])

    assert data == {"a": {"b": 3}, "c": {"d": {"e": [4]}}}


def test_an_option_does_not_replace_a_list_by_one_of_its_items() -> None:
    data = {"a": {"b": [{"c": 1}, {"c": 2}]}}

    with pytest.raises(RecipeError, match=r"a\.b\.0\.c is inside the list a\.b, .*; give a\.b with all of its items"):
        set_option(data, "a.b.0.c", 3)

    assert data == {"a": {"b": [{"c": 1}, {"c": 2}]}}


def test_parents_are_merged_in_their_order_and_the_file_itself_last(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "a: {x: 1, y: 1, z: 1, w: {k: 1}}\nlist: [1, 2]\n")
    write(tmp_path / "deep" / "more.yaml", "defaults: ../base.yaml\na: {y: 2, z: 2}\n")
    path = write(tmp_path / "x.yaml", "defaults:\n  - base.yaml\n  - deep/more.yaml\na: {z: 3, w: {m: 3}}\nlist: [3]\n")

    assert loaded(path) == {"a": {"x": 1, "y": 2, "z": 3, "w": {"k": 1, "m": 3}}, "list": [3]}


def test_a_section_may_replace_its_parent_s(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "a: {x: 1, y: 1}\n")
    path = write(tmp_path / "x.yaml", "defaults: base.yaml\na:\n  _override_: true\n  y: 2\n")

    assert loaded(path) == {"a": {"y": 2}}


def test_files_that_are_each_other_s_parents_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "defaults: b.yaml\n")
    path = write(tmp_path / "b.yaml", "defaults: a.yaml\n")

    with pytest.raises(RecipeError, match=r"b\.yaml is among its own parents \(.*b\.yaml -> .*a\.yaml\)"):
        loaded(path)


def test_parents_that_are_no_names_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "defaults: 5\n")

    with pytest.raises(RecipeError, match="defaults=5 must be the name of a file, or a list of them"):
        loaded(path)


def test_interpolations_and_their_arithmetic_are_resolved_with_the_options(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.yaml",
        "a: {len: 8, mbs: 2}\nb: ${a.len}\nc: ${mul:${a.len}, ${a.mbs}}\nd: ${div:8,2}\ne: ${add:1,2}\nf: ${max:1,3}\n",
    )

    assert loaded(path, options={"++a.len": 16}) == {
        "a": {"len": 16, "mbs": 2},
        "b": 16,
        "c": 32,
        "d": 4,
        "e": 3,
        "f": 3,
    }


def test_the_content_as_written_has_no_options(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "a: 8\nb: ${a}\n")

    _, raw = load_inherited(path, options={"a": 16}, env={})

    assert raw == {"a": 8, "b": "${a}"}


def test_variables_of_the_recipe_count_while_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEMOPERF_TEST_OURS", "ours")
    path = write(tmp_path / "x.yaml", "a: ${oc.env:NEMOPERF_TEST_OURS}\nb: ${oc.env:NEMOPERF_TEST_THEIRS}\n")

    data = loaded(path, env={"NEMOPERF_TEST_OURS": "recipe", "NEMOPERF_TEST_THEIRS": "recipe"})

    assert data == {"a": "recipe", "b": "recipe"}
    assert os.environ["NEMOPERF_TEST_OURS"] == "ours"
    assert "NEMOPERF_TEST_THEIRS" not in os.environ


def test_what_can_not_be_resolved_here_stays_as_it_is_written(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.yaml",
        "a: ${oc.env:NEMOPERF_TEST_NOT_SET}\nb: [1, '${theirs:1}']\nc: ${div:1,0}\nd: ${mul:x,1.5}\ne: 5\n",
    )

    assert loaded(path) == {
        "a": "${oc.env:NEMOPERF_TEST_NOT_SET}",
        "b": [1, "${theirs:1}"],
        "c": "${div:1,0}",
        "d": "${mul:x,1.5}",
        "e": 5,
    }


def test_a_broken_interpolation_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "x.yaml", "a: ${b\n")

    with pytest.raises(RecipeError, match=r"x\.yaml: .*\$\{b"):
        loaded(path)
