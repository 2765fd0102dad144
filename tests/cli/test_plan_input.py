"""``nemoperf plan`` from a recipe file, and its errors about wrong input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.cli.test_plan import RECIPE, argv, plan_in


def test_a_plan_is_made_of_a_recipe_file(nemoperf: Any, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(to_json(RECIPE), encoding="utf-8")

    code, out, _ = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100", "--json")

    assert code == 0
    assert plan_in(out) == resolve(RECIPE, system=find_system("h100"))


def test_the_recipe_of_the_documentation_is_one(nemoperf: Any, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")
    (tmp_path / "recipe.json").write_text(text.split("```json\n")[1].split("```")[0], encoding="utf-8")

    code, out, err = nemoperf("plan", "--recipe", "recipe.json", "--system", "h100", "--json")

    assert code == 0, err
    assert plan_in(out).layout == Layout(gpus=8, tp=2, dp_shard=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param('{"model": ', r": not JSON: ", id="half a file"),
        pytest.param("{}", r": layouts={} names no system; give at least one", id="empty"),
        pytest.param(
            to_json(RECIPE).replace('"tp"', '"tpp"'), r"$.layouts.h100.tpp: unknown key; did you mean", id="key"
        ),
        pytest.param(to_json(RECIPE).replace('"tp": 2', '"tp": 3'), r"gpus=8 but", id="rule"),
        pytest.param(None, r": cannot be read: No such file or directory", id="no file"),
    ],
)
def test_a_recipe_file_at_fault_is_named(nemoperf: Any, tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")

    code, out, err = nemoperf("plan", "--recipe", str(path), "--system", "h100")

    assert (code, out) == (2, "")
    assert err.startswith(f"nemoperf: error: {path}")
    assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(argv(system="h101"), "unknown system 'h101'; did you mean", id="system"),
        pytest.param(argv(precision="bf61"), "unknown precision 'bf61'; did you mean bf16", id="precision"),
        pytest.param(argv(recompute="some"), "unknown recompute 'some'", id="recompute"),
        pytest.param(argv(gbs=None, gpus=None), "--gpus, --gbs missing; give them, or a recipe", id="missing"),
        pytest.param(argv(gpus="8k"), "argument --gpus: invalid int value: '8k'", id="not a number"),
        pytest.param(argv(tp="3"), "gpus=8 is not a multiple of tp*pp*cp*dp_replicate (3*1*1*1=3)", id="ranks"),
        pytest.param(argv(gpus="0"), "gpus=0 of a layout must be a whole number >= 1", id="no ranks"),
        pytest.param(argv(gbs="10"), "global_batch_size=10 is not a multiple of", id="batch"),
        pytest.param(argv(mbs="0"), "micro_batch_size=0 must be a whole number", id="no micro batch"),
        pytest.param(argv(ep="2"), "share out the experts of a mixture of experts, this model is dense", id="experts"),
        pytest.param(argv(tokens="0"), "--tokens=0 must be a whole number >= 1", id="no tokens"),
        pytest.param(argv(tokens="15Q"), "--tokens=15Q must be a whole number >= 1; write e.g.", id="tokens' unit"),
        pytest.param(argv(tokens="0.5"), "--tokens=0.5 must be a whole number", id="half a token"),
        pytest.param(argv(recipe="x.json"), "--model with --recipe: the file says it already", id="both"),
        pytest.param(
            ["plan", "--recipe", "x.json", "--system", "h100", "--no-sequence-parallel"],
            "--no-sequence-parallel with --recipe: the file says it already",
            id="flag and file",
        ),
    ],
)
def test_a_usage_error_is_one_line_and_exits_2(nemoperf: Any, words: list[str], message: str) -> None:
    code, out, err = nemoperf(*words)

    assert (code, out) == (2, "")
    assert err.startswith("nemoperf: error: ")
    assert err.count("\n") == 1
    assert message in err
