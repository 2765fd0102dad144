"""First lines of docstrings name the thing or the action; none poses a riddle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pytest_nemoperf

RIDDLE = re.compile(
    r"\b(what|whatever|who|whoever|whose|where)\b|^((return|yield|tell|say|check)s? )?(how|which)\b", re.IGNORECASE
)
ADVICE = 'name the thing ("Optimizer step: accumulate, clip") or the action ("Return the loss, shape (B, S)")'


def riddles_in(source: str, *, name: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first_line = (ast.get_docstring(node) or "").partition("\n")[0]
            if RIDDLE.search(first_line):
                found.append(f"{name}:{node.body[0].lineno}: {first_line}")
    return found


def test_docstrings_name_the_thing_or_the_action() -> None:
    found = []
    for path in sorted(Path(pytest_nemoperf.__file__).parent.rglob("*.py")):
        found += riddles_in(path.read_text(encoding="utf-8"), name=str(path))

    assert not found, f"{len(found)} first lines are worded as questions; {ADVICE}:\n" + "\n".join(found)


@pytest.mark.parametrize(("line", "count"), [("What is left.", 1), ("Return which it is.", 1), ("It, which fails.", 0)])
def test_a_first_line_worded_as_a_question_is_found(line: str, count: int) -> None:
    assert len(riddles_in(f'class A:\n    def _f(self):\n        """{line}"""\n', name="a.py")) == count
