from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs import python_recipes
from pytest_nemoperf.frameworks.configs.python_recipes import SourceTree
from pytest_nemoperf.frameworks.configs.python_values import UNKNOWN, Opaque


def called(root: Path, text: str) -> Any:
    """Return what the function of a file with that text returns."""
    path = root / "recipes.py"
    path.write_text(text, encoding="utf-8")
    return SourceTree(root).call(path, function="recipe")


def test_a_function_that_calls_itself_ends(tmp_path: Path) -> None:
    assert called(tmp_path, "def recipe():\n    return recipe()\n") is UNKNOWN


def test_a_function_that_does_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_recipes, "_MAX_STATEMENTS", 100)

    with pytest.raises(RecipeError, match=r"recipes\.py does more than 100 statements; it is not followed"):
        called(tmp_path, "def recipe():\n    for i in range(1000):\n        x = i\n")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("cfg.x = 10**10**10", "a number of more than 512 bits"),
        ("cfg.x = 2**-10**10", "a number of more than 512 bits"),
        ("cfg.x = 'a' * 10**10", "a text or list longer than 100,000"),
        ("cfg.x = 10**10 * [0]", "a text or list longer than 100,000"),
        ("cfg.x = list(range(10**10))", "a range of more than 20,000 numbers"),
        ("cfg.x = sum(range(10**10))", "a range of more than 20,000 numbers"),
        ("cfg.x = [*range(10**10)]", "a range of more than 20,000 numbers"),
        ("for each in range(10**10):\n        pass", "a range of more than 20,000 numbers"),
        ("cfg.x = '%99999999999d' % 1", "a format whose width can't be followed"),
        ("cfg.x = 'a'.replace('', 'b' * 90_000)", "a text or list longer than 100,000"),
        ("cfg.cfg = cfg", "20,000 values, or 100 levels"),
        ("x = []\n    x.append(x)\n    cfg.x = x", "20,000 values, or 100 levels"),
        ("x = [1]\n    for each in range(60):\n        x = [x, x]\n    cfg.x = f'{x}'", "20,000 values, or"),
        (
            "for each in range(60):\n        cfg.x = deepcopy(cfg)\n        cfg.y = deepcopy(cfg)",
            "20,000 values, or 100",
        ),
        ("x = 1\n    for each in range(60):\n        x = x * x + 7", "a number of more than 512 bits"),
        ("for each in range(1000):\n        x = sorted(list(range(10_000)))", "works on more than 2,000,000 values"),
        ("cfg.x = 1" + " + 1" * 3000, "can't be followed: RecursionError|can't be read as Python"),
        ("cfg.x = " + "(" * 500 + ")" * 500, "can't be read as Python"),
    ],
)
def test_work_without_end_is_refused(body: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        called(tmp_path, f"def recipe():\n    cfg = Config()\n    {body}\n    return cfg\n")


def test_functions_that_call_each_other_without_end_are_refused(tmp_path: Path) -> None:
    text = "def recipe(x=None):\n    if unknown():\n        recipe(); recipe()\n    return recipe() + recipe()\n"

    with pytest.raises(RecipeError, match="does more than 50,000 statements; it is not followed"):
        called(tmp_path, text)


def test_a_width_of_a_format_makes_its_text_unknown(tmp_path: Path) -> None:
    assert called(tmp_path, "def recipe():\n    return '{:>9999999999}'.format(1)\n") is UNKNOWN


def test_a_module_whose_name_no_file_can_have_is_outside_the_source(tmp_path: Path) -> None:
    text = f"from {'a' * 300} import x\n\n\ndef recipe():\n    return x\n"

    assert isinstance(called(tmp_path, text), Opaque)
