"""PYTHONPATH entries of both sides: each side imports its own code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pytest_nemoperf.ab.import_paths import check_entries, check_installed, check_modules, default_paths
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import RevisionError


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def side_of(root: Path, *paths: str) -> ABSide:
    return ABSide(name="old", origin="main, 36db4f5", root=root, paths=paths)


def install(site: Path, *, project: Path, package: str, top_level: str | None) -> None:
    """Write the files of an editable install: metadata of a distribution, and its code."""
    info = site / "my_model-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-model\nVersion: 1.0\n")
    (info / "direct_url.json").write_text(json.dumps({"url": project.as_uri(), "dir_info": {"editable": True}}))
    if top_level is not None:
        (info / "top_level.txt").write_text(top_level)
    files(project, f"{package}/__init__.py")


def test_packages_usually_lie_in_src_or_in_the_root_directory(tmp_path: Path) -> None:
    assert default_paths(tmp_path) == (".",)
    (tmp_path / "src").mkdir()
    assert default_paths(tmp_path) == ("src",)


@pytest.mark.parametrize(
    ("name", "path", "is_guess"),
    [
        ("model/__init__.py", ".", True),
        ("train.py", ".", True),
        ("src/model/__init__.py", "src", True),
        ("src/names/part.py", "src", True),
        ("python/fast.abi3.so", "python", False),
        ("tests/test_speed.py", ".", False),
    ],
)
def test_an_entry_with_something_to_import_is_good(*, name: str, path: str, is_guess: bool, tmp_path: Path) -> None:
    check_modules(side_of(files(tmp_path, name), path), is_guess=is_guess)


@pytest.mark.parametrize(
    ("names", "path", "is_guess"),
    [
        (("python/model/__init__.py", "setup.py", "tests/__init__.py", "test_speed.py"), ".", True),
        (("python/model/__init__.py", "python/setup.py"), ".", True),
        (("src/kernel.cpp", "python/model/__init__.py"), "src", True),
        (("third_party/README",), "third_party", False),
        ((), "third_party", False),
    ],
    ids=["elsewhere", "nested", "no Python", "empty submodule", "missing"],
)
def test_an_entry_that_would_leave_both_sides_with_one_copy_is_refused(
    *,
    names: tuple[str, ...],
    path: str,
    is_guess: bool,
    tmp_path: Path,
) -> None:
    side = side_of(files(tmp_path, *names), path)

    with pytest.raises(RevisionError, match=r"old \(main, 36db4f5\) has no Python module in .*: both sides would"):
        check_modules(side, is_guess=is_guess)


def test_a_folder_that_an_editable_install_puts_on_the_path_is_found_whatever_its_packages_are_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, site = tmp_path / "project", tmp_path / "site"
    install(site, project=project, package="python/other_name", top_level=None)
    (site / "_my_model.pth").write_text(f"{project / 'python'}\nimport os\n")
    (site / "my_model-1.0.dist-info" / "RECORD").write_text("_my_model.pth,,\n")
    monkeypatch.syspath_prepend(site)

    check_installed(("python",), project=project, repository=project)
    with pytest.raises(RevisionError, match="my-model is installed from python of the working tree"):
        check_installed((".",), project=project, repository=project)


@pytest.mark.parametrize("top_level", [None, "my_model\n"], ids=["by name", "by top_level.txt"])
def test_an_editable_install_outside_what_is_swapped_is_refused(
    top_level: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    install(tmp_path / "site", project=project, package="python/my_model", top_level=top_level)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(project / "python")

    check_installed(("python",), project=project, repository=project)
    check_installed(("src",), project=tmp_path / "another", repository=tmp_path / "another")
    message = "my_model is installed from python of the working tree, which is not among the swapped PYTHONPATH entries"
    with pytest.raises(RevisionError, match=re.escape(f"{message} (src, lib)") + ".*; add python to"):
        check_installed(("src", "lib"), project=project, repository=project)


def test_an_editable_install_outside_the_root_directory_but_in_its_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", project=tmp_path / "repository", package="src/my_model", top_level=None)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "repository" / "src")
    repository = tmp_path / "repository"

    check_installed(("../src",), project=repository / "perf", repository=repository)
    with pytest.raises(RevisionError, match=r"my_model is installed from ../src of .*; add ../src to"):
        check_installed((".",), project=repository / "perf", repository=repository)


@pytest.mark.parametrize("path", ["{project}/src", "../../elsewhere", "/usr/lib"])
def test_an_entry_that_both_sides_would_share_is_refused(path: str, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    path = path.replace("{project}", str(repository / "perf"))

    check_entries(("src", "../src", "."), project=repository / "perf", repository=repository)
    with pytest.raises(RevisionError, match=rf"perf_ab_paths has {path}, which is the same folder for both sides: .*"):
        check_entries(("src", path), project=repository / "perf", repository=repository)
