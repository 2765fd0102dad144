"""PYTHONPATH entries of both sides of a comparison; checks that each side imports its own code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.machinery import all_suffixes
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from itertools import filterfalse
from pathlib import Path
from typing import Final
from urllib.parse import urlparse
from urllib.request import url2pathname

from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide, Revision, git
from pytest_nemoperf.errors import RevisionError

_ROOT: Final = "."
_BESIDE_THE_CODE: Final = frozenset(
    {"setup", "conftest", "noxfile", "fabfile", "tests", "test", "perf_tests", "docs", "doc", "examples", "benchmarks"}
)
"""Names in a project's root directory that hold no code under test."""
_CONSEQUENCE: Final = "both sides would import the same copy from elsewhere, and be found equal"


def default_paths(root: Path) -> tuple[str, ...]:
    """Return the default PYTHONPATH entries of a project: ``src`` if it exists, else its root directory."""
    if (root / "src").is_dir():
        return ("src",)
    return (_ROOT,)


def check_entries(paths: Sequence[str], *, project: Path, repository: Path) -> None:
    """Check that each side has its own copy of every PYTHONPATH entry.

    Args:
        paths: Entries of both sides, relative to their root directories.
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


def is_unchanged(
    revision: Revision, *, paths: Sequence[str], project: Path, state_dir: Path, baselines_dir: Path | None = None
) -> bool:
    """Return whether a revision has the same files as the working tree, so that both sides would run the same code.

    Of untracked files only code counts that could be imported from a PYTHONPATH entry, without tests. Files that
    .gitignore names (generated code, builds) don't count: they follow from the others.

    Args:
        revision: Commit of the old side.
        paths: PYTHONPATH entries of the working tree, relative to its root directory.
        project: Root directory of the working tree.
        state_dir: The session's own folder.
        baselines_dir: Folder of the baselines, if these don't count and all other code does: tests, untracked as well.

    Raises:
        RevisionError: If git fails.
    """
    top = revision.repository.resolve()
    pathspecs = ["."]
    entries = [(project / path).resolve() for path in paths]
    if baselines_dir is not None:
        entries = [top]
        if baselines_dir.resolve().is_relative_to(top):
            pathspecs.append(f":(exclude,glob){baselines_dir.resolve().relative_to(top).as_posix()}/**/*.json")
    doing = f"git can't compare the working tree {top} with {revision.label}"
    if git("diff", "--name-only", "--no-ext-diff", revision.commit, "--", *pathspecs, root=top, doing=doing):
        return False
    trees = ABTrees(new=top, old=state_dir, state_dir=state_dir.resolve())  # nothing is checked out yet
    for entry in entries:
        if not entry.is_relative_to(top):  # check_entries raises the error
            continue
        listed = git(
            "ls-files", "--others", "--exclude-standard", "--full-name", "-z", "--", str(entry), root=top, doing=doing
        )
        for name in filter(None, listed.split("\0")):
            module = (top / name).relative_to(entry).parts[0].partition(".")[0]
            rel_path = trees.inside_new(top / name)
            is_beside = baselines_dir is None and _is_beside_the_code(module)
            if rel_path is not None and not is_beside and not trees.is_common(rel_path):
                return False
    return True


def check_modules(side: ABSide, *, is_guess: bool) -> None:
    """Check that Python can import something from each of a side's PYTHONPATH entries.

    Args:
        side: Set up and ready to run.
        is_guess: The entries are the default ones. Tests, ``setup.py`` and folders without ``__init__.py`` in a root
            directory don't count then: nearly every project has some.

    Raises:
        RevisionError: If an entry is empty: a submodule that is not checked out, or code that lies elsewhere.
    """
    for path in side.paths:
        is_guessed_root = is_guess and path == _ROOT
        names = _modules(side.root / path, has_namespaces=not is_guessed_root)
        if is_guessed_root:
            names = filterfalse(_is_beside_the_code, names)
        if not any(names):
            raise RevisionError(
                f"{side.label} has no Python module in {side.root / path}, a PYTHONPATH entry of both sides: "
                f"{_CONSEQUENCE}; name the folders that hold the code under test in the ini key perf_ab_paths, "
                "or put there what git leaves out (submodules, generated code) by perf_ab_setup"
            )


def check_installed(paths: Sequence[str], *, project: Path, repository: Path) -> None:
    """Check that editable installs from the working tree lie in the sides' own PYTHONPATH entries.

    Args:
        paths: PYTHONPATH entries of both sides, relative to their root directories.
        project: Root directory of the working tree.
        repository: Top folder of the working tree.

    Raises:
        RevisionError: If one lies in another folder of the working tree.
    """
    project = project.resolve()
    repository = repository.resolve()
    swapped = {(project / path).resolve() for path in paths}
    for name, folder in _editable_packages(repository):
        if folder.is_relative_to(repository) and folder not in swapped:
            inside = os.path.relpath(folder, project)
            raise RevisionError(
                f"{name} is installed from {inside} of the working tree, which is not among the swapped PYTHONPATH "
                f"entries ({', '.join(paths)}): {_CONSEQUENCE}; add {inside} to the ini key perf_ab_paths"
            )


def _is_beside_the_code(name: str) -> bool:
    return name in _BESIDE_THE_CODE or name.startswith("test_")


def _modules(folder: Path, *, has_namespaces: bool) -> Iterator[str]:
    """Yield the names of modules and packages in a folder; packages without ``__init__.py`` only if asked for."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        name = path.name.partition(".")[0]
        if name.isidentifier() and _is_importable(path, has_namespaces=has_namespaces):
            yield name


def _is_importable(path: Path, *, has_namespaces: bool) -> bool:
    suffixes = tuple(all_suffixes())
    if path.is_file():
        return path.name.endswith(suffixes)
    if path.is_dir():
        for file in path.iterdir():
            if file.name.endswith(suffixes) and (has_namespaces or file.name.startswith("__init__.")):
                return True
    return False


def _editable_packages(project: Path) -> Iterator[tuple[str, Path]]:
    """Yield names of editable installs from a project, and the folders they are imported from."""
    for distribution in distributions():
        if not _is_editable(distribution, project=project):
            continue
        title = distribution.metadata["Name"]
        for folder in _added_to_path(distribution):
            yield title, folder
        names = distribution.read_text("top_level.txt") or re.sub("[-.]+", "_", title)
        for name in names.split():
            for location in _locations(name):
                yield name, location.resolve().parent


def _added_to_path(distribution: Distribution) -> Iterator[Path]:
    """Yield the folders that an installation puts on the path of every process."""
    for file in distribution.files or ():
        if file.suffix == ".pth":
            lines = Path(str(distribution.locate_file(file))).read_text(encoding="utf-8").splitlines()
            for line in lines:
                if Path(line).is_dir():
                    yield Path(line).resolve()


def _locations(name: str) -> list[Path]:
    """Return the folders of a package, or the file of a module; none if there is no such module."""
    with suppress(ImportError, ValueError):
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            return list(map(Path, spec.submodule_search_locations))
        if spec is not None and spec.origin:
            return [Path(spec.origin)]
    return []


def _is_editable(distribution: Distribution, *, project: Path) -> bool:
    """Return whether a distribution is an editable install from a project (PEP 610, https://peps.python.org/pep-0610/)."""
    try:
        source = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return False
    if not source.get("dir_info", {}).get("editable"):
        return False
    return Path(url2pathname(urlparse(source["url"]).path)).resolve().is_relative_to(project)
