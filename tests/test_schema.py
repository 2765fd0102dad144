from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_nemoperf import schema
from pytest_nemoperf.errors import BaselineError, PlanError, RecipeError
from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.schema import KINDS, schema_of, validate

RECIPE = Recipe(
    model="llama-tiny", layouts={"cpu": Layout(gpus=2, tp=2)}, seq_len=128, global_batch_size=4, micro_batch_size=2
)


@pytest.fixture
def plan() -> dict[str, Any]:
    data: dict[str, Any] = to_data(resolve(RECIPE, system=find_system("cpu")))
    return data


@pytest.mark.parametrize("name", KINDS)
def test_shipped_schemas_are_what_the_dataclasses_say(name: str) -> None:
    text = resources.files("pytest_nemoperf").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8")

    assert json.loads(text) == schema_of(name), "run python -m pytest_nemoperf.schema --write"


def test_no_shipped_schema_is_without_a_dataclass() -> None:
    shipped = {path.name for path in resources.files("pytest_nemoperf").joinpath("schemas").iterdir()}

    assert shipped == {f"{name}.schema.json" for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_schemas_are_sound_and_refuse_unknown_keys(name: str) -> None:
    generated = schema_of(name)

    Draft202012Validator.check_schema(generated)
    assert generated["$id"] == f"urn:pytest-nemoperf:{name}:1"
    objects = [definition for definition in generated["$defs"].values() if "properties" in definition]
    assert objects
    assert all(definition["additionalProperties"] is False for definition in objects)


def test_properties_are_described_by_the_docstring() -> None:
    root = schema_of("recipe")["$defs"]["Recipe"]

    assert root["description"] == "A workload, and the layout of each system it can run on."
    assert root["properties"]["seq_len"]["description"].startswith("Tokens per sequence; ")
    assert [name for name, each in root["properties"].items() if "description" not in each] == ["schema_version"]


def test_a_description_over_two_lines_is_joined() -> None:
    docstring = "First.\n\nAttributes:\n    one: Begins\n        and ends: here.\n    two: Short.\n\nRaises:\n    X: y"

    assert list(schema._attributes(docstring)) == [("one", "Begins and ends: here."), ("two", "Short.")]


def test_sound_data_passes(plan: dict[str, Any]) -> None:
    validate(plan, name="plan", subject="plan.json", error=PlanError)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(("layout", "tp"), "2", r"^plan\.json: \$\.layout\.tp: '2' is not of type 'integer'", id="type"),
        pytest.param(
            ("layout", "tpp"), 2, r"^plan\.json: \$\.layout\.tpp: unknown key; did you mean tp", id="unknown key"
        ),
        pytest.param(
            ("precision",), "bf61", r"\$\.precision: 'bf61' is not one of \['bf16', 'fp32', 'fp8_cs',", id="word"
        ),
        pytest.param(("schema_version",), 2, r"\$\.schema_version: 2 is not one of \[1\]", id="version"),
        pytest.param(("env",), {"A": 1}, r"\$\.env\.A: 1 is not of type 'string'", id="value of a mapping"),
        pytest.param(("model",), "llama-tiny", r"\$\.model: 'llama-tiny' is not of type 'object'", id="name"),
    ],
)
def test_the_json_path_at_fault_and_the_rule_are_named(
    plan: dict[str, Any], path: tuple[str, ...], value: object, message: str
) -> None:
    target = plan
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value

    with pytest.raises(PlanError, match=message):
        validate(plan, name="plan", subject="plan.json", error=PlanError)


def test_a_missing_key_is_named(plan: dict[str, Any]) -> None:
    del plan["layout"]["gpus"]

    with pytest.raises(PlanError, match=r"\$\.layout: 'gpus' is a required property"):
        validate(plan, name="plan", subject="plan.json", error=PlanError)


def test_the_error_is_the_one_the_caller_asked_for() -> None:
    with pytest.raises(BaselineError, match=r"here: \$: \[\] is not of type 'object'"):
        validate([], name="recipe", subject="here", error=BaselineError)


def test_a_long_value_does_not_flood_the_message() -> None:
    with pytest.raises(RecipeError, match=r"^recipe: \$: .* \.\.\. .*'object'$") as caught:
        validate(["long"] * 1000, name="recipe", subject="recipe", error=RecipeError)

    assert len(str(caught.value)) < 400


def test_of_two_kinds_of_model_the_nearer_one_is_explained() -> None:
    data = to_data(RECIPE) | {"model": {"name": "mine"}}

    with pytest.raises(RecipeError, match=r"\$\.model: 'hidden_size' is a required property"):
        validate(data, name="recipe", subject="recipe", error=RecipeError)


def test_stale_schemas_are_found_and_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "schema.py"))
    (tmp_path / "schemas").mkdir()

    assert schema.main([]) == 1
    assert "step.schema.json is not what the dataclasses say; run" in capsys.readouterr().err
    assert schema.main(["--write"]) == 0
    assert schema.main([]) == 0
