from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.cli.project_ini import find_ini_lines
from pytest_nemoperf.errors import RecipeError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytest.ini", "[pytest]\nperf_python =\n    a=x\n    b=y\n"),
        ("pyproject.toml", '[tool.pytest.ini_options]\nperf_python = ["a=x", "b=y"]\n'),
        ("pyproject.toml", '[tool.pytest.ini_options]\nperf_python = """\na=x\nb=y\n"""\n'),
        ("pyproject.toml", '[tool.pytest]\nperf_python = ["a=x", "b=y"]\n'),
        ("pytest.toml", '[pytest]\nperf_python = ["a=x", "b=y"]\n'),
        ("tox.ini", "[pytest]\nperf_python =\n    a=x\n    b=y\n"),
        ("setup.cfg", "[tool:pytest]\nperf_python =\n    a=x\n    b=y\n"),
    ],
)
def test_lines_of_a_key_are_read_from_the_project_s_file(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    inside = tmp_path / "src"
    inside.mkdir()

    found = find_ini_lines("perf_python", start=inside)

    assert found.path == tmp_path / name
    assert list(found.lines) == ["a=x", "b=y"]


def test_a_value_that_is_no_text_is_shown_as_one(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nperf_python = 3\n", encoding="utf-8")

    assert list(find_ini_lines("perf_python", start=tmp_path).lines) == ["3"]


def test_a_file_without_settings_of_pytest_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n", encoding="utf-8")
    (tmp_path / "tox.ini").write_text("[pytest]\nperf_python = /x\n", encoding="utf-8")

    assert list(find_ini_lines("perf_python", start=tmp_path).lines) == ["/x"]


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool", encoding="utf-8")

    with pytest.raises(RecipeError, match=r"pyproject\.toml can't be read: .*; mend it"):
        find_ini_lines("perf_python", start=tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("tool = 1", "tool must be a section"),
        ("[[tool.pytest]]\nperf_python = '/x'", "pytest must be a section"),
        ("[tool.pytest]\nini_options = [1]", "ini_options must be a section"),
        ("x = " + "[" * 20_000, "recursion"),
        ("x = " + "9" * 5000, "4300 digits"),
    ],
)
def test_a_file_of_another_form_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")

    with pytest.raises(RecipeError, match=rf"pyproject\.toml can't be read: .*{told}.*; mend it"):
        find_ini_lines("perf_python", start=tmp_path)
