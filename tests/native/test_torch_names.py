"""Names of torch that the ranks' code uses: documented ones, and those that CONTRIBUTING.md lists with a reason."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CODE = sorted(
    path for package in ("native", "trainers") for path in (ROOT / "src/pytest_nemoperf" / package).rglob("*.py")
)
# What torch's documentation says a subclass defines.
MAY_DEFINE = {"torch.nn.Module": {"forward"}, "torch.autograd.Function": {"forward", "backward"}}


def listed_names() -> set[str]:
    """Return the names in CONTRIBUTING.md's table of undocumented ones."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("### Undocumented names of torch\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(torch\.[\w.]+)` \|", section, flags=re.MULTILINE))


def imported_names(tree: ast.Module) -> dict[str, str]:
    """Return the names of torch that a module imports, by what it calls them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """Return the name of an expression within torch; empty for others."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = full_name(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def used_names(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported_names(tree)
    yield from names.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "torch")
        elif isinstance(node, ast.Attribute):
            yield full_name(node, names)


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.endswith("__") for part in name.split("."))


def resolved(name: str) -> Any:
    """Return what a name means in the torch that is installed."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


def test_private_names_are_listed_and_no_others() -> None:
    private = {name for path in CODE for name in used_names(path) if is_private(name)}
    # A private member of a listed one is what the list names.
    listed = listed_names()
    longest = {name for name in private if not any(other.startswith(f"{name}.") for other in private)}

    assert longest == {name for name in listed if is_private(name)}


@pytest.mark.parametrize("name", sorted(listed_names()))
def test_listed_names_are_there_in_this_torch(name: str) -> None:
    assert resolved(name) is not None


def test_subclasses_define_what_torch_documents() -> None:
    for path in CODE:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = imported_names(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef):
                continue
            for base in filter(None, (full_name(each, names) for each in node.bases)):
                methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
                overridden = methods & set(dir(resolved(base))) - set(dir(object))
                assert overridden <= MAY_DEFINE[base], f"{path.name}: {node.name}"
