"""Files of one side and files common to both, in a real repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from pytest_nemoperf.ab.source_trees import ABTrees, read_trees, source_of
from pytest_nemoperf.ab.worktree import Revision, find_revision
from pytest_nemoperf.errors import RevisionError


def git(*arguments: str, root: Path) -> None:
    options = ["user.name=Test", "user.email=test@example.org", "commit.gpgsign=false", "protocol.file.allow=always"]
    flags = [flag for option in options for flag in ("-c", option)]
    subprocess.run(["git", "-C", str(root), *flags, *arguments], check=True, capture_output=True)


def commit(root: Path) -> None:
    git("add", ".", root=root)
    git("commit", "--quiet", "--message", "all", root=root)


def files(root: Path, *names: str, text: str = "") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits, the second with one more file, and untracked files."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "project"
    files(root, "src/model.py", "conf.yaml", ".gitignore")
    git("init", "--quiet", "--initial-branch=main", root=root)
    commit(root)
    files(root, "bench/new.py")
    commit(root)
    files(root, "draft.py", "build/fast.so.1", "data/tokens.bin", "deps/torch/__init__.py")
    files(root, "deps/torch-2.0.dist-info/METADATA", "env/pyvenv.cfg", "env/bin/tool.py", ".cache/kernel.py")
    files(root, "clone/.git", "clone/train.py")
    files(root, "launch", text="#!/bin/sh\n")
    return root


def trees_of(project: Path) -> ABTrees:
    """Return the trees, with the first commit checked out."""
    checkout = project / ".nemoperf" / "ab" / "old"
    if not checkout.exists():
        git("worktree", "add", "--detach", str(checkout), "main~1", root=project)
    return read_trees(find_revision("main~1", root=project), checkout=checkout, state_dir=project / ".nemoperf")


def test_what_git_has_and_code_that_it_has_not_belongs_to_the_working_tree_alone(project: Path) -> None:
    trees = trees_of(project)

    own = ["conf.yaml", "bench/new.py", "bench", "draft.py", "launch", "build/fast.so.1"]
    assert [name for name in own if trees.is_common(PurePosixPath(name))] == []


def test_data_and_what_belongs_to_neither_version_are_common(project: Path) -> None:
    trees = trees_of(project)

    common = ["data/tokens.bin", "data", "deps/torch/__init__.py", "env/bin/tool.py", ".cache/kernel.py", ".git/HEAD"]
    assert [name for name in [*common, "clone/train.py"] if not trees.is_common(PurePosixPath(name))] == []


def test_the_old_side_has_what_its_commit_has_and_what_a_set_up_put_there(project: Path) -> None:
    trees = trees_of(project)

    assert trees.has_old(PurePosixPath("conf.yaml"))
    assert not trees.has_old(PurePosixPath("bench/new.py"))
    files(trees.old, "bench/new.py")
    assert trees.has_old(PurePosixPath("bench/new.py"))


def test_what_a_set_up_links_into_the_checkout_is_common(project: Path) -> None:
    old = trees_of(project).old
    files(project, "bench/other.py")
    (old / "conf.yaml").unlink()
    for name in ("draft.py", "bench", "conf.yaml"):
        (old / name).symlink_to(project / name)

    trees = trees_of(project)

    for name in ("draft.py", "bench/new.py", "bench/other.py", "conf.yaml"):
        assert trees.is_common(PurePosixPath(name))
    assert not trees.is_common(PurePosixPath("src/model.py"))


def test_the_sessions_own_folder_is_no_part_of_the_working_tree(project: Path) -> None:
    trees = trees_of(project)

    assert trees.inside_new(project / "src" / "model.py") == PurePosixPath("src/model.py")
    assert trees.inside_new(project / ".nemoperf" / "runs") is None
    assert trees.inside_new(trees.old / "conf.yaml") is None
    assert trees.inside_new(project.parent / "project2") is None


def test_a_submodule_is_common_as_long_as_both_sides_want_the_same_of_it(project: Path, tmp_path: Path) -> None:
    library = tmp_path / "library"
    files(library, "lib.py")
    git("init", "--quiet", root=library)
    commit(library)
    git("submodule", "add", str(library), "lib", root=project)
    commit(project)
    files(project, "later.txt")
    commit(project)
    place = PurePosixPath("lib/lib.py")

    trees = trees_of(project)

    assert not trees.has_old(PurePosixPath("lib"))  # git leaves the folder empty
    assert trees.is_common(place)
    (project / "lib" / "lib.py").write_text("changed")
    assert not trees_of(project).is_common(place)
    commit(project / "lib")
    assert not trees_of(project).is_common(place)


def test_a_repository_that_is_the_whole_file_system_is_refused(tmp_path: Path) -> None:
    revision = Revision(name="main", commit="36db4f5", repository=Path("/"))

    with pytest.raises(RevisionError, match=r"top folder of the repository is /, so that every path .* into a folder"):
        read_trees(revision, checkout=tmp_path, state_dir=tmp_path)


def test_a_compiled_module_is_called_by_its_source() -> None:
    cached = Path(f"/project/src/__pycache__/model.{sys.implementation.cache_tag}.pyc")

    assert source_of(cached) == Path("/project/src/model.py")
    assert source_of(Path("/project/model.py")) == Path("/project/model.py")
