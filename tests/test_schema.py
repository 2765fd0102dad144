from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from pytest_nemoperf import schema
from pytest_nemoperf.baselines.baseline import Anchor, Baseline
from pytest_nemoperf.errors import BaselineError, PlanError, RecipeError
from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.profile import Profile
from pytest_nemoperf.records.step import StepRecord
from pytest_nemoperf.results.cases import SessionResults
from pytest_nemoperf.results.row import Release
from pytest_nemoperf.runs.replay import CaseRecord
from pytest_nemoperf.schema import KINDS, from_valid_data, schema_of
from tests.builders import (
    make_baseline,
    make_plan,
    make_profile,
    make_provenance,
    make_records,
    make_rl_plan,
    make_runs,
)
from tests.report.builders import make_passed, make_results
from tests.results.row_builders import make_release
from tests.runs.stored_runs import make_record
from tests.schema_check import schema_faults

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


def test_sound_data_is_built(plan: dict[str, Any]) -> None:
    built = from_valid_data(Plan, plan, subject="plan.json", error=PlanError)

    assert to_data(built) == plan
    assert schema_faults(plan, name="plan") == []


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        pytest.param(
            ("layout", "tp"), "2", r'^plan\.json: \$\.layout\.tp is "2"; it must be a whole number$', id="type"
        ),
        pytest.param(
            ("layout", "tpp"), 2, r"^plan\.json: \$\.layout\.tpp: unknown key; did you mean tp", id="unknown key"
        ),
        pytest.param(("precision",), "bf61", r'\$\.precision is "bf61", which is none of the known words', id="word"),
        pytest.param(("schema_version",), 2, r"\$\.schema_version is 2, which is none of the known", id="version"),
        pytest.param(("env",), {"B": "x", "A": 1}, r"\$\.env\.A is 1; it must be a text", id="value of a mapping"),
        pytest.param(("model",), "llama-tiny", r'\$\.model is "llama-tiny"; it must be an object', id="name"),
        pytest.param(("seed",), 7.0, r"\$\.seed is 7\.0; it must be a whole number; write 7$", id="point"),
        pytest.param(("rl",), 1, r"\$\.rl is 1; it must be an object or null", id="optional"),
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
        from_valid_data(Plan, plan, subject="plan.json", error=PlanError)


def test_a_missing_key_is_named(plan: dict[str, Any]) -> None:
    del plan["layout"]["gpus"]

    with pytest.raises(PlanError, match=r"\$\.layout lacks the key 'gpus'$"):
        from_valid_data(Plan, plan, subject="plan.json", error=PlanError)


def test_a_misspelt_key_is_named_before_the_missing_one(plan: dict[str, Any]) -> None:
    plan["layout"]["gpu"] = plan["layout"].pop("gpus")

    with pytest.raises(PlanError, match=r"\$\.layout\.gpu: unknown key; did you mean gpus\?$"):
        from_valid_data(Plan, plan, subject="plan.json", error=PlanError)


def test_the_error_is_the_one_the_caller_asked_for() -> None:
    with pytest.raises(BaselineError, match=r"here: \$ is \[\]; it must be an object"):
        from_valid_data(Recipe, [], subject="here", error=BaselineError)


def test_a_long_value_does_not_flood_the_message() -> None:
    with pytest.raises(RecipeError, match=r"^recipe: \$ is .* \.\.\.; it must be an object$") as caught:
        from_valid_data(Recipe, ["long"] * 1000, subject="recipe", error=RecipeError)

    assert len(str(caught.value)) < 150


def test_of_two_kinds_of_model_the_nearer_one_is_explained() -> None:
    data = to_data(RECIPE) | {"model": {"name": "mine"}}

    with pytest.raises(RecipeError, match=r"\$\.model lacks the key 'hidden_size'"):
        from_valid_data(Recipe, data, subject="recipe", error=RecipeError)


def test_stale_schemas_are_found_and_rewritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schema, "__file__", str(tmp_path / "schema.py"))
    (tmp_path / "schemas").mkdir()

    assert schema.main([]) == 1
    assert "step.schema.json is not what the dataclasses say; run" in capsys.readouterr().err
    assert schema.main(["--write"]) == 0
    assert schema.main([]) == 0


def _places(node: Any, *, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the paths of all mappings, lists and values below a node."""
    places = [path]
    if isinstance(node, dict):
        for key, value in node.items():
            places += _places(value, path=(*path, key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            places += _places(value, path=(*path, number))
    return places


_STRANGE: tuple[Any, ...] = (None, True, 0, 1, 1.0, -2.5, 10**30, "", "1", [], [1], {}, {"unknown": 1})


_FILES: Mapping[str, tuple[type[object], object]] = {
    "baseline": (
        Baseline,
        make_baseline(anchor=Anchor(name="1.0", runs=make_runs((1.0, 2.0)), provenance=make_provenance())),
    ),
    "profile": (Profile, make_profile()),
    "release": (Release, make_release("1.0")),
    "case": (CaseRecord, make_record(make_plan())),
    "step": (StepRecord, make_records(make_plan())[0]),
    "results": (SessionResults, make_results(make_passed())),
    "plan": (Plan, make_rl_plan()),
}
_WITHOUT_OWN_CHECKS = ("baseline", "profile", "release")  # a schema can't say all that the dataclasses of others check


@pytest.mark.parametrize("name", _FILES)
@settings(max_examples=30)
@given(data=st.data())
def test_a_reader_takes_what_keeps_to_the_shipped_schema_and_nothing_else(data: st.DataObject, name: str) -> None:
    kind, value = _FILES[name]
    changed: Any = to_data(value)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(_places(changed)[1:]))
        node = changed
        for key in parents:
            node = node[key]
        if data.draw(st.booleans()) and isinstance(node, dict):
            node["unknown"] = 1
        else:
            node[last] = deepcopy(data.draw(st.sampled_from(_STRANGE)))
    problem = ""
    try:
        from_valid_data(kind, changed, subject="it", error=BaselineError)
    except BaselineError as exc:
        problem = str(exc)
    faults = schema_faults(changed, name=name)

    if not problem:
        assert faults == []
    elif name in _WITHOUT_OWN_CHECKS and not problem.endswith("it must be a whole number; write 1"):
        assert faults, problem


@pytest.mark.parametrize(
    "path",
    [
        pytest.param((), id="at the top"),
        pytest.param(("runs", 1), id="in a list"),
        pytest.param(("provenance",), id="in a dataclass"),
        pytest.param(("anchor", "runs", 0), id="in a list of an optional one"),
    ],
)
def test_an_unknown_key_is_refused_at_every_depth(path: tuple[str | int, ...]) -> None:
    anchor = Anchor(name="1.0", runs=make_runs((1.0, 2.0)), provenance=make_provenance())
    data: Any = to_data(make_baseline(anchor=anchor))
    node = data
    for key in path:
        node = node[key]
    node["unknown"] = 1

    with pytest.raises(BaselineError, match=r"\.unknown: unknown key"):
        from_valid_data(Baseline, data, subject="it", error=BaselineError)
