from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pytest_nemoperf.machine import provenance
from pytest_nemoperf.systems import find_system
from tests.test_machine import B200S, NO_GPU


def _git(*arguments: str, root: Path) -> None:
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_provenance_names_the_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    _git("init", "-q", root=tmp_path)
    (tmp_path / "tracked").write_text("one", encoding="utf-8")
    _git("add", "tracked", root=tmp_path)
    _git("commit", "-q", "-m", "one", root=tmp_path)
    (tmp_path / "untracked").touch()

    clean = provenance(find_system("cpu"), devices=NO_GPU, root=tmp_path)
    (tmp_path / "tracked").write_text("two", encoding="utf-8")
    changed = provenance(find_system("cpu"), devices=NO_GPU, root=tmp_path)

    assert clean.git_commit is not None
    assert len(clean.git_commit) == 40
    assert (clean.git_dirty, changed.git_dirty) == (False, True)
    assert changed.git_commit == clean.git_commit


@pytest.mark.parametrize("path", ["", None], ids=["no git", "no repository"])
def test_provenance_does_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if path is not None:
        monkeypatch.setenv("PATH", path)

    found = provenance(find_system("cpu"), devices=NO_GPU, root=tmp_path)

    assert (found.git_commit, found.git_dirty) == (None, False)


def test_provenance_tells_when_with_what_and_by_which_command(tmp_path: Path) -> None:
    argv = ["/usr/lib/python3/site-packages/pytest/__main__.py", "-m", "perf", "-k", "a b"]

    found = provenance(find_system("b200"), devices=B200S, root=tmp_path, argv=argv)

    assert datetime.fromisoformat(found.date).tzinfo == UTC
    assert found.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"platform", "pytest", "pytest-nemoperf"} <= set(found.versions)
    assert (found.device, found.driver) == ("8x NVIDIA B200", "580.1")
    assert found.command == "pytest -m perf -k 'a b'"


def test_provenance_of_a_cpu_run_does_not_name_idle_gpus(tmp_path: Path) -> None:
    found = provenance(find_system("cpu"), devices=B200S, root=tmp_path)

    assert "NVIDIA" not in found.device
    assert found.driver == ""


def test_asking_about_the_machine_does_not_import_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from pytest_nemoperf import machine as m; d = m.detect_devices();"
        "s = m.find_system('cpu'); m.machine_key(s, devices=d); m.provenance(s, devices=d, root=Path('.'));"
        "sys.exit('torch' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False)

    assert done.returncode == 0
