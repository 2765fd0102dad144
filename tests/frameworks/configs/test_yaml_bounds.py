from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.yaml_file import load_inherited, load_yaml, read_text


def doubled(line: str) -> str:
    """Return eight lines that hold the line before nine times each."""
    lines = []
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        aliases = ", ".join([f"*{before}"] * 9)
        lines.append(f"{name}: &{name} {line.replace('ALIASES', aliases)}")
    return "\n".join(lines)


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + doubled("[ALIASES]")
MERGES = "a: &a {x: 1}\n" + doubled("{<<: [ALIASES]}")
CHAIN = "\n".join([*(f"a{at}: '${{a{at + 1}}}${{a{at + 1}}}'" for at in range(40)), "a40: x"])
SECTIONS = "\n".join([*(f"a{at}: {{x: '${{a{at + 1}}}', y: '${{a{at + 1}}}'}}" for at in range(40)), "a40: {x: 1}"])


def write(folder: Path, text: str, *, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "a: " + "[" * 20_000, r"nested more than 32 levels deep|exceeded maximum nesting depth", id="lists"
        ),
        pytest.param('{"a": ' * 20_000, r":1: nested more than 32 levels deep", id="sections"),
        pytest.param(LAUGHS, r":5: more than 10,000 values with its aliases written out", id="billion laughs"),
        pytest.param(MERGES, r":5: more than 10,000 values with its aliases written out", id="merges"),
        pytest.param("a: &a [1, *a]", r":1: no complete value is called \*a", id="a list that holds itself"),
        pytest.param("a: *b", r":1: no complete value is called \*b", id="an alias of nothing"),
        pytest.param("a: 1\nb: {c: 1, d: 2, c: 3}", r":2: 'c' is there twice in one section", id="a name twice"),
        pytest.param("a: " + "1" * 5000, r":1: 1+ \.\.\. has more than 64 bits; quote it", id="digits"),
        pytest.param("a: 0x" + "f" * 5000, r":1: 0xf+ \.\.\. has more than 64 bits; quote it", id="hexadecimal"),
        pytest.param("a: 2026-13-45", r"is no YAML: month must be in 1\.\.12", id="a date there is not"),
        pytest.param("? [1]\n: 2", r"is no YAML: .*unhashable", id="a list as name"),
        pytest.param(
            "a: !!python/object/apply:os.system [true]", r"is no YAML: could not determine a constructor", id="tag"
        ),
        pytest.param("a: " + "x" * (1 << 20), r"has more than 1,048,576 characters", id="length"),
    ],
)
def test_a_file_beyond_bounds_is_refused_before_it_is_built(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        load_yaml(write(tmp_path, text))


def test_anchors_and_merges_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a: &a {x: 1, y: [1]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n")

    data = load_yaml(path)

    assert data["b"] == {"x": 2, "y": [1]}
    assert data["c"] == [data["a"], data["a"]]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(CHAIN, "more than 10,000 values with its interpolations", id="texts"),
        pytest.param(SECTIONS, "interpolations follow each other more than 64 times", id="sections"),
        pytest.param("a: {b: '${a}'}", "a is interpolated into itself", id="into itself"),
        pytest.param("a: {b: '${..a}'}", "a is interpolated into itself", id="into itself by a relative name"),
        pytest.param("a: '" + "${b}" * 13 + "'", "a text of 52 characters with 13", id="many in a text"),
    ],
)
def test_interpolations_without_end_are_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=told):
        load_inherited(write(tmp_path, text), options={}, env={})


@pytest.mark.parametrize("value", ["${mul:aaaaaaaa,9999999999}", "${mul:1e300,1e10}", "${div:1,0}"])
def test_a_function_that_gives_no_setting_stays_as_it_is_written(value: str, tmp_path: Path) -> None:
    config, _ = load_inherited(write(tmp_path, f"a: '{value}'"), options={}, env={})

    assert config.data == {"a": value}


def test_parents_that_name_parents_again_and_again_are_refused(tmp_path: Path) -> None:
    for at in range(6):
        write(tmp_path, f"defaults: [{', '.join([f'{at + 1}.yaml'] * 5)}]", name=f"{at}.yaml")
    write(tmp_path, "a: 1", name="6.yaml")

    with pytest.raises(RecipeError, match=r"0\.yaml has more than 50 parents; mend defaults"):
        load_inherited(tmp_path / "0.yaml", options={}, env={})


def test_a_recipe_of_any_length_is_not_read_whole(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has more than 1,048,576 characters; name the recipe file"):
        read_text(write(tmp_path, "#" * (1 << 21)))
