"""docs/architecture.md against the source: its graph, its tables of packages, and its three walks."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import grimp
import pytest

import pytest_nemoperf
from pytest_nemoperf.records import step

NAME = pytest_nemoperf.__name__
SOURCE = Path(pytest_nemoperf.__file__).parent
ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MAX_FILES = 12
WALKS = ("A recipe to its verdict", "A step record to a table cell", "An option to its use")
FILES = {step.PLAN_FILE: {"PLAN_FILE", "NEMOPERF_PLAN"}, step.STEPS_FILE: {"STEPS_FILE", "NEMOPERF_STEPS"}}
"""Names by which a package knows a file: the constant, or the variable that tells a script its path."""
IMPORT = re.compile(r"^ *(\w+) --> (\w+)$", re.MULTILINE)
FILE = re.compile(r"^ *(\w+) -\.->\|([\w.]+)\| (\w+)$", re.MULTILINE)
GREEN = re.compile(r"^ *class ([\w,]+) way$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """One row of a walk: a file, the thing in it that the value comes to, and the name of what it hands on."""

    file: str
    by: str
    handed_on: str

    @property
    def package(self) -> str:
        return self.file.partition("/")[0]


def packages() -> set[str]:
    return {path.parent.name for path in SOURCE.glob("*/__init__.py")}


def parts() -> set[str]:
    """Return the parts of packages that the page lists; those of ``native/rl`` are in its row."""
    return {str(path.parent.relative_to(SOURCE)) for path in SOURCE.glob("*/*/__init__.py")}


@cache
def module_graph() -> grimp.ImportGraph:
    return grimp.build_graph(NAME, cache_dir=None)


def package_imports() -> dict[str, set[str]]:
    """Return the packages that each package imports."""
    names = packages()
    graph = module_graph()
    imports: dict[str, set[str]] = {name: set() for name in names}
    for module in graph.modules:
        package = package_of(module)
        if package not in names:
            continue
        for imported in graph.find_modules_directly_imported_by(module):
            imports[package].add(package_of(imported))
    return {package: (imported & names) - {package} for package, imported in imports.items()}


def package_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def without_implied(imports: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Return the imports between packages that do not follow from others: the transitive reduction."""
    edges = set()
    for package, imported in imports.items():
        for other in imported:
            if not any(other in reached(imports, by=between) for between in imported - {other}):
                edges.add((package, other))
    return edges


def reached(imports: Mapping[str, set[str]], *, by: str) -> set[str]:
    """Return the packages that a package imports, itself or through others."""
    found: set[str] = set()
    left = [by]
    while left:
        new = imports[left.pop()] - found
        found |= new
        left += new
    return found


def graph_problems(page: str) -> list[str]:
    """Return the differences between the page's graph and the imports of the source."""
    text = page.partition("```mermaid")[2].partition("```")[0]
    drawn = set(IMPORT.findall(text))
    files = FILE.findall(text)
    real = without_implied(package_imports())
    problems = [f"{a} --> {b} is drawn, and is no import or one that others imply" for a, b in sorted(drawn - real)]
    problems += [f"{a} --> {b} is missing" for a, b in sorted(real - drawn)]
    nodes = {name for edge in drawn for name in edge} | {name for a, _, b in files for name in (a, b)}
    problems += [f"{name} is no package" for name in sorted(nodes - packages())]
    problems += [f"{name} is not drawn" for name in sorted(packages() - nodes)]
    for writer, file, reader in files:
        for package in (writer, reader):
            if file not in FILES or all(FILES[file].isdisjoint(names_in(path)) for path in modules_of(package)):
                problems.append(f"{package} does not know {file}")
    (green,) = GREEN.findall(text)
    passed = {stop.package for stop in walk_of(page, heading=WALKS[0])}
    problems += [f"{name} is green or on the walk, not both" for name in sorted(passed ^ set(green.split(",")))]
    return problems


def modules_of(package: str) -> list[str]:
    return [str(path.relative_to(SOURCE)) for path in (SOURCE / package).rglob("*.py")]


@cache
def names_in(file: str) -> frozenset[str]:
    """Return the names that a module of the package uses or defines, its docstrings and comments apart."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((SOURCE / file).read_text(encoding="utf-8"))):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.keyword(arg=str(name)):
                names.add(name)
            case ast.Constant(value=str(text)) if text.isidentifier():
                names.add(text)
    return frozenset(names)


def definitions_in(file: str) -> set[str]:
    """Return the functions, classes and constants of a module, and the methods of its classes."""
    names = set()
    for node in ast.parse((SOURCE / file).read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name):
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                names.add(name)
            case ast.ClassDef(name=name, body=body):
                names.add(name)
                names |= {f"{name}.{item.name}" for item in body if isinstance(item, ast.FunctionDef)}
    return names


def rows_of(page: str, *, heading: str) -> Iterator[list[str]]:
    """Yield the cells of the first table whose head begins with a word."""
    table = page.partition(f"| {heading} |")[2].partition("\n\n")[0]
    for line in table.splitlines()[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def walk_of(page: str, *, heading: str) -> list[Stop]:
    section = page.partition(f"### {heading}\n")[2].partition("\n##")[0]
    stops = []
    for file, does, handed_on in rows_of(section, heading="File"):
        stops.append(Stop(file=file.strip("`"), by=does.split("`")[1], handed_on=handed_on.strip("`")))
    return stops


def walk_problems(walk: list[Stop]) -> list[str]:
    """Return the faults of a walk: its length, ways back, and steps that the source does not make."""
    lost = [f"there is no {stop.file}" for stop in walk if not (SOURCE / stop.file).is_file()]
    if lost or not walk:
        return lost or ["there is no walk"]
    problems = []
    if len({stop.file for stop in walk}) > MAX_FILES:
        problems.append(f"more than {MAX_FILES} files")
    left: set[str] = set()
    for stop, following in pairwise(walk):
        if following.package != stop.package:
            left.add(stop.package)
        if following.package in left - {"frameworks"}:
            problems.append(f"{following.file} is of a package that the walk has left")
        if stop.handed_on not in names_in(stop.file):
            problems.append(f"{stop.file} does not name {stop.handed_on}")
        if stop.handed_on not in names_in(following.file):
            problems.append(f"{following.file} does not name {stop.handed_on}, which {stop.file} hands on")
    problems += [f"{stop.file} does not define {stop.by}" for stop in walk if stop.by not in definitions_in(stop.file)]
    return problems


def table_problems(page: str, *, config: Mapping[str, Any]) -> list[str]:
    """Return the differences between the page's tables and the contracts of import-linter."""
    contracts = config["tool"]["importlinter"]["contracts"]
    layers = next(each["layers"] for each in contracts if each.get("containers") == [NAME])
    order = [name for layer in layers for name in layer.split(" | ") if name in packages()]
    rights = {}
    for package, _, right in rows_of(page, heading="Package"):
        rights[package.strip("`")] = right
    problems = []
    if list(rights) != order:
        problems.append(f"the packages stand in the order {list(rights)}, in the contract {order}")
    expected = dict.fromkeys(order, "")
    for contract in contracts:
        forbidden = contract.get("forbidden_modules", ())
        for ignored in contract.get("ignore_imports", ()):
            expected[package_of(ignored.partition(".**")[0])] = ignored.rpartition("-> ")[2]
        if "subprocess" in forbidden:
            expected |= dict.fromkeys(map(package_of, contract["source_modules"]), "pure")
    for package, right in rights.items():
        if right != expected.get(package):
            problems.append(f"{package} may import {right or 'nothing more'}, by contract {expected.get(package)}")
    listed = {part.strip("`") for part, _, _ in rows_of(page, heading="Part")}
    problems += [f"{part} is a part or listed, not both" for part in sorted(parts() ^ listed)]
    return problems


def test_the_graph_is_that_of_the_imports() -> None:
    assert graph_problems(PAGE) == []


@pytest.mark.parametrize(
    ("drawn", "instead", "problem"),
    [
        pytest.param("    flops --> models\n", "", "flops --> models is missing", id="edge left out"),
        pytest.param(
            "flops --> models", "models --> flops", "models --> flops is drawn, and is no import", id="turned"
        ),
        pytest.param("cli --> lint", "cli --> lint\n cli --> report", "cli --> report is drawn", id="implied"),
        pytest.param("cli --> lint\n    cli --> options\n", "\n", "cli is not drawn", id="package left out"),
        pytest.param("cli --> lint", "cli --> lint\n cli --> websites", "websites is no package", id="no package"),
        pytest.param("|steps.jsonl| frameworks", "|steps.jsonl| flops", "flops does not know steps.jsonl", id="file"),
        pytest.param("class plugin,", "class cli,", "cli is green or on the walk", id="green"),
    ],
)
def test_a_graph_that_is_not_that_of_the_imports_is_found(drawn: str, instead: str, problem: str) -> None:
    assert drawn in PAGE

    problems = graph_problems(PAGE.replace(drawn, instead))

    assert any(each.startswith(problem) for each in problems), problems


def test_the_tables_are_those_of_the_contracts() -> None:
    assert table_problems(PAGE, config=CONFIG) == []


@pytest.mark.parametrize(
    ("there", "instead", "problem"),
    [
        pytest.param("| `cli` |", "| `websites` |", "the packages stand in the order", id="another package"),
        pytest.param(
            "reports and files | pure |", "reports and files | |", "results may import nothing more", id="pure"
        ),
        pytest.param(
            "`trainers` alone imports it | torch |",
            "`trainers` alone imports it | |",
            "native may import nothing",
            id="torch",
        ),
        pytest.param(
            "| `report/ci` |", "| `report/html` |", "report/ci is a part or listed, not both", id="another part"
        ),
    ],
)
def test_a_table_that_is_not_that_of_the_contracts_is_found(there: str, instead: str, problem: str) -> None:
    assert there in PAGE

    problems = table_problems(PAGE.replace(there, instead), config=CONFIG)

    assert any(each.startswith(problem) for each in problems), problems


@pytest.mark.parametrize("heading", WALKS)
def test_a_walk_is_short_enters_a_package_once_and_each_step_is_in_the_source(heading: str) -> None:
    assert walk_problems(walk_of(PAGE, heading=heading)) == []


@pytest.mark.parametrize(
    ("there", "instead", "problem"),
    [
        pytest.param("| `recipes/resolve.py` |", "| `resolve.py` |", "there is no resolve.py", id="file"),
        pytest.param("`resolve` finds", "`find` finds", "recipes/resolve.py does not define find", id="definition"),
        pytest.param("| `RunOutput` |", "| `RunRecord` |", "frameworks/torch.py does not name RunRecord", id="value"),
        pytest.param("| `RankCommand` |", "| `Recompute` |", "launchers/local.py does not name Recompute", id="link"),
    ],
)
def test_a_step_that_the_source_does_not_make_is_found(there: str, instead: str, problem: str) -> None:
    assert there in PAGE

    problems = walk_problems(walk_of(PAGE.replace(there, instead, 1), heading=WALKS[0]))

    assert any(each.startswith(problem) for each in problems), problems


def test_a_walk_back_into_a_package_is_found() -> None:
    walk = walk_of(PAGE, heading=WALKS[0])
    back = [*walk, walk[2]]

    assert "session/planning.py is of a package that the walk has left" in walk_problems(back)


def test_a_walk_of_more_than_twelve_files_is_found() -> None:
    long = walk_of(PAGE, heading=WALKS[0]) + walk_of(PAGE, heading=WALKS[2])

    assert "more than 12 files" in walk_problems(long)
