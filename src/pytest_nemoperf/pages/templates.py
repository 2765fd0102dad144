"""Pages with empty blocks: the templates of the package, or a file of one's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import PageError, did_you_mean

TEMPLATES: Final = ("dfm", "nemo-rl")
"""Names of the templates that the package ships."""


def template_text(name: str) -> str:
    """Return a shipped template.

    Raises:
        PageError: If there is none of that name.
    """
    if name not in TEMPLATES:
        raise PageError(f"{name}: no such template; {did_you_mean(name, TEMPLATES)}; a file is --template {name}")
    path = resources.files("pytest_nemoperf").joinpath("pages", "templates", f"{name}.md")
    return path.read_text(encoding="utf-8")


def read_page_text(path: Path) -> str:
    """Return the text of a page's file, its line ends as they are.

    Raises:
        PageError: If it can't be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as exc:
        raise PageError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise PageError(f"{path}: is not UTF-8: {exc.reason} at byte {exc.start}; save it as UTF-8") from None
