"""Real processes of one side that use, or do not use, the other side's files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from pytest_nemoperf.ab.opened_files import ABWatcher
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand

LIBC = Path(next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libc" in line))


class Sides:
    """Two trees, and a watcher of one side's processes."""

    def __init__(self, folder: Path) -> None:
        self.new, self.old, self.run_dir = folder / "new", folder / "old", folder / "run"
        for path in (self.new, self.old, self.run_dir):
            path.mkdir()
        self.trees = ABTrees(
            new=self.new,
            old=self.old,
            state_dir=self.run_dir,
            tracked=frozenset({"model.py", "conf.yaml", "run.sh", "part", "part/model.py"}),
        )
        self.processes: list[psutil.Popen] = []

    def watcher(self, name: str = "old") -> ABWatcher:
        return ABWatcher(ABSide(name=name, origin="main", root=self.old, paths=(".",)), trees=self.trees)

    def python(self, code: str, *, name: str = "old", path: str = "") -> str:
        """Run Python as a process of a side, and return its output."""
        command = RankCommand(argv=(sys.executable, "-c", code), num_processes=1, env={"PYTHONPATH": path})
        watched = self.watcher(name).instrument(command, run_dir=self.run_dir)
        env = {**os.environ, **watched.env}
        return subprocess.run(watched.argv, check=True, cwd=self.old, env=env, capture_output=True, text=True).stdout

    def start(self, argv: Sequence[str], *, cwd: Path, is_up: Callable[[int], bool]) -> None:
        """Start a process of the old side, and wait until it is up."""
        process = psutil.Popen(argv, cwd=cwd)
        self.processes.append(process)
        deadline = time.monotonic() + 10
        while not is_up(process.pid) and time.monotonic() < deadline:
            time.sleep(0.02)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    sides = Sides(tmp_path.resolve())
    for name in ("model.py", "part/model.py"):
        (sides.new / name).parent.mkdir(exist_ok=True)
        (sides.new / name).write_text("speed = 1\n")
    (sides.new / "conf.yaml").touch()
    yield sides
    for process in sides.processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("import sys; sys.path.insert(0, '{new}'); import model", r"new/model.py \(opened\)"),
        ("import runpy; runpy.run_path('{new}/model.py')", r"new/model.py \(opened\)"),
        ("open('{new}/conf.yaml').close()", r"new/conf.yaml \(opened\)"),
        ("open(b'{new}/../new/conf.yaml').close()", r"new/conf.yaml \(opened\)"),
        ("import os; os.chdir('{new}/part')", r"new/part \(as a working directory\)"),
        ("import os; os.chdir('{new}'); open('conf.yaml')", r"new \(as a working directory\), .*new/conf.yaml \(op"),
        ("import subprocess, sys; subprocess.run([sys.executable, '{new}/part/model.py'])", r"new/part/model.py \("),
        ("import pathlib; pathlib.Path('{new}/conf.yaml').read_text(); import os; os._exit(0)", r"new/conf.yaml"),
    ],
)
def test_a_python_process_that_opens_a_file_of_the_other_side_is_found_out(code: str, named: str, sides: Sides) -> None:
    sides.python(code.replace("{new}", str(sides.new)))

    with pytest.raises(RevisionError, match=f"its processes use the working tree: .*{named}.*; both sides would"):
        sides.watcher().check_notes(sides.run_dir)


def test_a_module_that_was_compiled_before_is_named_by_its_source(sides: Sides) -> None:
    code = f"import sys; sys.dont_write_bytecode = False; sys.path.insert(0, {str(sides.new)!r}); import model"
    sides.python(code)
    assert (sides.new / "__pycache__").exists()
    shutil.move(sides.run_dir / "opened", sides.run_dir / "first")

    sides.python(code)

    with pytest.raises(RevisionError, match=r"tree: \S*/new/model.py \(opened\);"):
        sides.watcher().check_notes(sides.run_dir)


def test_data_that_git_does_not_have_may_be_opened_by_both(sides: Sides) -> None:
    (sides.new / "tokens.bin").touch()
    (sides.old / "model.py").touch()

    sides.python(f"open('{sides.new}/tokens.bin'); open('model.py'); open('{sides.run_dir}/log', 'w'); import json")

    sides.watcher().check_notes(sides.run_dir)


def test_the_new_side_must_not_use_the_checkout(sides: Sides) -> None:
    (sides.old / "model.py").touch()

    sides.python(f"open('{sides.new}/model.py'); open('{sides.old}/model.py')", name="new")

    with pytest.raises(RevisionError, match=r"its processes use the old side's checkout: \S*/old/model.py \(opened\);"):
        sides.watcher("new").check_notes(sides.run_dir)


def test_a_fork_for_another_launch_has_what_its_parent_loaded(sides: Sides) -> None:
    later = sides.run_dir / "later"
    later.mkdir()
    command = RankCommand(argv=(), num_processes=1)
    setting = sides.watcher().instrument(command, run_dir=later).env["NEMOPERF_AB_WATCH"]
    sides.python(
        f"""
import os, sys
sys.path.insert(0, {str(sides.new)!r})
import model
if os.fork() == 0:
    os.environ["NEMOPERF_AB_WATCH"] = {setting!r}
    open(os.devnull).close()
    os._exit(0)
os.wait()
"""
    )

    with pytest.raises(RevisionError, match=r"new/model.py \(opened\)"):
        sides.watcher().check_notes(later)


@pytest.mark.parametrize(
    "code",
    [
        "import copied",
        "import copied, os; os._exit(0)",
        "import spread.part",
        "import importlib; importlib.import_module('copied')",
    ],
)
def test_a_module_that_comes_from_neither_tree_is_found_out(code: str, sides: Sides, tmp_path: Path) -> None:
    foreign = tmp_path / "lib" / "site-packages"
    for folder in (sides.old, foreign):
        for name in ("copied/__init__.py", "spread/part.py"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    sides.python(f"import sys; sys.path[:] = [{str(foreign)!r}, *sys.path[2:]]; {code}")

    with pytest.raises(
        RevisionError, match=r"import (copied|spread.part) from \S*/site-packages/\S+.py, though .*/old"
    ):
        sides.watcher().check_notes(sides.run_dir)


def test_modules_of_the_side_of_python_and_of_no_entry_are_its_own(sides: Sides, tmp_path: Path) -> None:
    foreign = tmp_path / "lib" / "site-packages"
    foreign.mkdir(parents=True)
    for path in (foreign / "torchlike.py", sides.old / "json.py", sides.old / "own.py", sides.old / "torchlike.txt"):
        path.touch()

    sides.python(f"import sys; sys.path[:] = [*sys.path[2:], {str(foreign)!r}]; import json, torchlike")
    sides.python("import own")

    sides.watcher().check_notes(sides.run_dir)


def test_the_users_own_sitecustomize_still_runs_and_the_path_is_as_it_would_be(sides: Sides) -> None:
    (sides.old / "sitecustomize.py").write_text("import sys; print('own', __name__, __name__ in sys.modules)")

    printed = sides.python("import sys; print(sys.path[1]); import sitecustomize", path=str(sides.old))

    assert printed.splitlines() == ["own sitecustomize True", str(sides.old)]


def test_a_process_in_a_folder_of_the_working_tree_is_seen_from_outside(sides: Sides) -> None:
    cwd = sides.new / "part"
    sides.start(["sleep", "60"], cwd=cwd, is_up=lambda pid: Path(f"/proc/{pid}/cwd").resolve() == cwd)

    with pytest.raises(RevisionError, match=r"new/part \(as the working directory by process \d+, sleep\)"):
        sides.watcher().check_processes(lambda: sides.processes)


def test_a_script_that_a_shell_reads_is_seen_from_outside(sides: Sides) -> None:
    script = sides.new / "run.sh"
    script.write_text("echo up > up; sleep 60\n")
    sides.start(["bash", str(script)], cwd=sides.old, is_up=lambda _pid: (sides.old / "up").exists())

    with pytest.raises(RevisionError, match=r"new/run.sh \(open by process \d+, bash\)"):
        sides.watcher().check_processes(lambda: sides.processes)


def test_a_library_that_only_the_working_tree_has_is_seen_from_outside(sides: Sides) -> None:
    library = sides.new / "fast.so"
    shutil.copy(LIBC, library)
    code = f"import mmap, time; file = open({str(library)!r}); memory = mmap.mmap(file.fileno(), 0, prot=1); "
    code += "file.close(); print(flush=True); time.sleep(60)"
    sides.start(
        [sys.executable, "-c", code],
        cwd=sides.old,
        is_up=lambda pid: str(library) in Path(f"/proc/{pid}/maps").read_text(),
    )

    with pytest.raises(RevisionError, match=r"new/fast.so \(\w+ by process \d+"):
        sides.watcher().check_processes(lambda: sides.processes)


def test_a_process_that_keeps_to_its_side_is_left_alone(sides: Sides) -> None:
    cwd = sides.old
    sides.start(["sleep", "60"], cwd=cwd, is_up=lambda pid: Path(f"/proc/{pid}/cwd").resolve() == cwd)
    ended = psutil.Popen(["true"])
    ended.wait()

    sides.watcher().check_processes(lambda: [*sides.processes, ended])
