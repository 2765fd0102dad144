"""The worked example of a plain loop; those of trainers are in tests/trainers."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.integrations.examples import EXAMPLES, make_model, run_example

PAGE = (EXAMPLES.parent / "frameworks.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## From inside: three lines\n")[2].partition("\n## ")[0]
BASES = {"trainer": "unchanged/hf_trainer", "trl_grpo": "unchanged/trl_grpo"}
"""Script without the lines, by the example that has them."""
CALLBACKS = ("trainer", "trl_grpo", "lightning")


def script(name: str) -> list[str]:
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8").splitlines()


def added_lines(example: str) -> list[str]:
    """Return the lines of an example that are for this package."""
    return [line.strip() for line in script(f"{example}/train") if "pytest_nemoperf" in line or "Steps(" in line]


def test_a_plain_loop_runs_as_the_page_shows_it(
    tmp_path_factory: pytest.TempPathFactory, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path_factory.mktemp("model")
    make_model(model)

    run = run_example("plain_loop", beside=model, pytester=pytester, monkeypatch=monkeypatch)

    assert run.problems == []
    assert all(record.loss is not None for record in run.records)


@pytest.mark.parametrize("example", CALLBACKS)
def test_the_page_shows_the_lines_that_an_example_adds(example: str) -> None:
    added = added_lines(example)

    assert len(added) == 2
    assert [line for line in added if line not in SECTION] == []


@pytest.mark.parametrize(("example", "base"), BASES.items())
def test_an_example_is_its_base_with_these_lines(example: str, base: str) -> None:
    before = [line.replace(f"{Path(base).name}.py", "train.py") for line in script(base)]

    differences = [line for line in difflib.ndiff(before, script(f"{example}/train")) if line[0] in "+-"]

    assert [line[2:].strip() for line in differences if line.strip("+ ")] == added_lines(example)
    assert all(line.startswith("+") for line in differences)


@pytest.mark.parametrize("example", ["plain_loop", *CALLBACKS])
def test_the_page_links_to_each_example(example: str) -> None:
    assert f"(examples/{example}/train.py)" in SECTION


def test_the_page_shows_the_lines_of_the_plain_loop() -> None:
    block = SECTION.partition("```python\n")[2].partition("```")[0]
    shown = [line.partition("  # ")[0].strip() for line in block.splitlines()]

    lines = [line.strip() for line in script("plain_loop/train")]

    assert [line for line in shown if line and line != "..." and line not in lines] == []
