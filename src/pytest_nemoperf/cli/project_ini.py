"""Lines of a key in the ini file of the project around the working directory, read without pytest."""

from __future__ import annotations

import configparser
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError

_FILES: Final = (
    ("pytest.toml", ("pytest",)),
    (".pytest.toml", ("pytest",)),
    ("pytest.ini", ("pytest",)),
    (".pytest.ini", ("pytest",)),
    ("pyproject.toml", ("tool", "pytest")),
    ("tox.ini", ("pytest",)),
    ("setup.cfg", ("tool:pytest",)),
)
"""Files in the order that pytest looks for them, each with its section."""
_INNER: Final = "ini_options"
"""Section of pyproject.toml below tool.pytest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IniLines:
    """Lines of a key.

    Attributes:
        path: The ini file; None if there is none.
        lines: The key's lines; none if the file lacks it.
    """

    path: Path | None
    lines: Sequence[str] = ()


def find_ini_lines(key: str, *, start: Path) -> IniLines:
    """Return the lines of a key in the nearest file of pytest's settings, in a folder or one above it.

    Raises:
        RecipeError: If the file can't be read.
    """
    for folder in (start, *start.parents):
        for name, section in _FILES:
            path = folder / name
            if not path.is_file():
                continue
            settings = _settings(path, section=section)
            if settings is not None:
                return IniLines(path=path, lines=_lines(settings.get(key, ())))
    return IniLines(path=None)


def _settings(path: Path, *, section: Sequence[str]) -> Any:
    """Return the settings of pytest in a file; None if it has none."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            node: Any = tomllib.loads(text)
            for name in section:
                node = _section(node, name)
            return _section(node, _INNER) or node or None
        parser = configparser.RawConfigParser()
        parser.read_string(text)
    except (OSError, ValueError, RecursionError, configparser.Error) as error:
        raise RecipeError(f"{path} can't be read: {' '.join(str(error).split())}; mend it") from None
    return dict(parser.items(section[0])) if parser.has_section(section[0]) else None


def _section(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a TOML file; an empty one if there is none.

    Raises:
        ValueError: If a value of another kind has its name.
    """
    section = node.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{name} must be a section")
    return section


def _lines(value: Any) -> list[str]:
    """Return the lines of a value that is a text or a list of texts; of any other, it as text."""
    items = value
    if isinstance(value, str):
        items = value.splitlines()
    elif not isinstance(value, (list, tuple)):
        items = [value]
    return [str(item).strip() for item in items if str(item).strip()]
