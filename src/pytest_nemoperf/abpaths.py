"""Where each version of a comparison imports the code under test from, and whether that can tell the two apart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import all_suffixes
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import urlparse
from urllib.request import url2pathname

from pytest_nemoperf.abtrees import ABTrees
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.worktree import ABSide, Revision, git

_ROOT: Final = "."
_BESIDE_THE_CODE: Final = frozenset(
    {"setup", "conftest", "noxfile", "fabfile", "tests", "test", "perf_tests", "docs", "doc", "examples", "benchmarks"}
)
"""What a project's root directory has that is no code under test."""
_CONSEQUENCE: Final = "both sides would import the same copy from elsewhere, and be found equal"


def usual_paths(root: Path) -> tuple[str, ...]:
    """Return where a project's packages lie when nobody says: in ``src``, or in its root directory."""
    return ("src",) if (root / "src").is_dir() else (_ROOT,)


def check_entries(paths: Sequence[str], *, project: Path, repository: Path) -> None:
    """Check that each side has its own copy of every PYTHONPATH entry.

    Args:
        paths: Of both sides, relative to their root directories.
        project: Root directory of the working tree.
        repository: Top folder of the working tree.

    Raises:
        RevisionError: If an entry is absolute, or leads out of the repository.
    """
    for path in paths:
        is_inside = (project / path).resolve().is_relative_to(repository.resolve())
        if Path(path).is_absolute() or not is_inside:
            raise RevisionError(
                f"the ini key perf_ab_paths has {path}, which is the same folder for both sides: {_CONSEQUENCE}; "
                f"name a folder of the repository, relative to pytest's root directory {project}"
            )


def is_unchanged(revision: Revision, *, paths: Sequence[str], project: Path, state_dir: Path) -> bool:
    """Tell whether git has the very files of the working tree in a revision: both sides would run one version.

    Of what git does not have, code counts that could be imported from a PYTHONPATH entry; tests there don't, and what
    .gitignore names (generated code, builds) doesn't: it follows from the other files.

    Args:
        revision: Of the old side.
        paths: PYTHONPATH entries of the working tree, relative to its root directory.
        project: Root directory of the working tree.
        state_dir: The session's own folder.

    Raises:
        RevisionError: If git can't tell.
    """
    top = revision.repository.resolve()
    doing = f"git can't compare the working tree {top} with {revision.label}"
    if git("diff", "--name-only", "--no-ext-diff", revision.commit, "--", root=top, doing=doing):
        return False
    trees = ABTrees(new=top, old=state_dir, state_dir=state_dir.resolve())  # nothing is checked out yet
    for path in paths:
        entry = (project / path).resolve()
        if not entry.is_relative_to(top):  # an error of its own
            continue
        listed = git(
            "ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", str(entry), root=top, doing=doing
        )
        for name in filter(None, listed.split("\0")):
            first = (top / name).relative_to(entry).parts[0].partition(".")[0]
            place = trees.inside_new(top / name)
            is_beside = first in _BESIDE_THE_CODE or first.startswith("test_")
            if place is not None and not is_beside and not trees.is_common(place):
                return False
    return True


def check_modules(side: ABSide, *, is_guess: bool) -> None:
    """Check that Python can import something from each of a side's PYTHONPATH entries.

    Args:
        side: Set up and ready to run.
        is_guess: The entries are the usual ones. Then tests, ``setup.py`` and folders that are no regular packages
            don't count: a root directory nearly always has some.

    Raises:
        RevisionError: If an entry is empty: a submodule that is not checked out, or code that lies elsewhere.
    """
    for path in side.paths:
        names = _modules(side.root / path, has_namespaces=not (is_guess and path == _ROOT))
        if is_guess and path == _ROOT:
            names = (name for name in names if name not in _BESIDE_THE_CODE and not name.startswith("test_"))
        if not any(names):
            raise RevisionError(
                f"{side.label} has no Python module in {side.root / path}, a PYTHONPATH entry of both sides: "
                f"{_CONSEQUENCE}; name the folders that hold the code under test in the ini key perf_ab_paths, "
                "or put there what git leaves out (submodules, generated code) by perf_ab_setup"
            )


def check_installed(paths: Sequence[str], *, project: Path, repository: Path) -> None:
    """Check that packages which are installed from the working tree itself are among what is swapped.

    Args:
        paths: PYTHONPATH entries of both sides, relative to their root directories.
        project: Root directory of the working tree.
        repository: Its top folder.

    Raises:
        RevisionError: If an editable install lies in a folder of the working tree that is no such entry.
    """
    project, repository = project.resolve(), repository.resolve()
    swapped = {(project / path).resolve() for path in paths}
    for name, folder in _editable_packages(repository):
        if folder.is_relative_to(repository) and folder not in swapped:
            inside = os.path.relpath(folder, project)
            raise RevisionError(
                f"{name} is installed from {inside} of the working tree, which is not among the swapped PYTHONPATH "
                f"entries ({', '.join(paths)}): {_CONSEQUENCE}; add {inside} to the ini key perf_ab_paths"
            )


def _modules(folder: Path, *, has_namespaces: bool) -> Iterator[str]:
    """Yield the names that can be imported from a folder."""
    suffixes = tuple(all_suffixes())
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.partition(".")[0]
        if not name.isidentifier():
            continue
        if path.is_file() and path.name.endswith(suffixes):
            yield name
        elif path.is_dir():
            files = [each.name for each in path.iterdir() if each.name.endswith(suffixes)]
            if any(has_namespaces or file.startswith("__init__.") for file in files):
                yield name


def _editable_packages(project: Path) -> Iterator[tuple[str, Path]]:
    """Yield names of editable installs from a project, and the folders they are imported from."""
    for distribution in distributions():
        if not _is_editable(distribution, project=project):
            continue
        title = distribution.metadata["Name"]
        yield from ((title, folder) for folder in _added_to_path(distribution))
        names = distribution.read_text("top_level.txt") or re.sub("[-.]+", "_", title)
        for name in names.split():
            yield from ((name, place.resolve().parent) for place in _places(name))


def _added_to_path(distribution: Distribution) -> Iterator[Path]:
    """Yield the folders that an installation puts on the path of every process."""
    for file in distribution.files or ():
        if file.suffix == ".pth":
            lines = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8").splitlines()
            yield from (Path(line).resolve() for line in lines if Path(line).is_dir())


def _places(name: str) -> list[Path]:
    """Return the folders of a package, or the file of a module; none if there is no such module."""
    with suppress(ImportError, ValueError):
        if (spec := find_spec(name)) is not None:
            return [Path(place) for place in spec.submodule_search_locations or filter(None, [spec.origin])]
    return []


def _is_editable(distribution: Distribution, *, project: Path) -> bool:
    """Tell whether a distribution is an editable install from a project (PEP 610, https://peps.python.org/pep-0610/)."""
    try:
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return False
    if not source.get("dir_info", {}).get("editable"):
        return False
    return Path(url2pathname(urlparse(source["url"]).path)).resolve().is_relative_to(project)
