"""Stored baselines survive every end of an update, in real processes; see write_driver.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.baselines.files import baseline_path, find_baseline, read_baseline, write_baseline
from pytest_nemoperf.errors import BaselineError
from tests.builders import make_baseline

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Return a starter of the driver, with its own baselines and locks."""
    (tmp_path / "locks").mkdir()
    env = os.environ | {"TMPDIR": str(tmp_path / "locks")}

    def start(what: str, *rates: float) -> subprocess.Popen[str]:
        argv = [
            sys.executable,
            "-m",
            "tests.baselines.write_driver",
            what,
            str(tmp_path / "baselines"),
            *map(str, rates),
        ]
        root = Path(__file__).parents[2]
        return subprocess.Popen(argv, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    root = tmp_path / "baselines"
    write_baseline(root, baseline=make_baseline())
    return baseline_path(root, system="cpu", case="pretrain-test")


def output_of(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_an_update_may_end_at_any_call_that_changes_files(start: Start, how: str) -> None:
    calls = output_of(start(how)).split()

    assert set(calls) >= {"open", "flock", "write", "flush", "fsync", "replace", "close"}
    assert calls.index("fsync") < calls.index("replace"), "renamed before it was on the disk"
    assert "fsync" in calls[calls.index("replace") :], "the renaming itself was not brought to the disk"


def test_a_disk_that_fills_up_at_any_byte_leaves_the_old_file(start: Start, stored: Path) -> None:
    before = stored.read_bytes()

    lines = output_of(start("full")).splitlines()

    assert set(lines) == {f"{stored}: cannot be written: File too large; what was stored before is untouched"}
    assert stored.read_bytes() == before


def test_a_folder_that_takes_no_files_is_named(start: Start, stored: Path, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)  # whoever the driver becomes must come this far

    output = output_of(start("denied"))

    assert output == f"{stored}: cannot be written: Permission denied; what was stored before is untouched\n"
    assert read_baseline(stored) == make_baseline()


def test_two_sessions_that_update_at_once_take_turns(start: Start, stored: Path) -> None:
    rates = [[float(rate + number) for rate in range(1000, 1025)] for number in (0, 100)]
    writers = [start("update", *each) for each in rates]

    num_read = 0
    while any(writer.poll() is None for writer in writers):
        read_baseline(stored)  # never half a file
        num_read += 1
    outputs = [output_of(writer) for writer in writers]

    assert outputs == ["", ""]
    assert num_read > 0
    assert read_baseline(stored).runs[0].metrics["tokens_per_sec_per_gpu"] in {each[-1] for each in rates}
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


@pytest.mark.parametrize("how", ["another TMPDIR", "a container with the same path"])
def test_a_session_with_another_lock_is_not_in_the_way(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    root, places = stored.parent.parent, (tmp_path / "one", tmp_path / "other")
    for place in places:
        place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places[0]))
    sync = os.fsync

    def let_the_other_write(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", sync)
        if how == "another TMPDIR":
            monkeypatch.setattr(tempfile, "tempdir", str(places[1]))
        else:
            places[0].rename(tmp_path / "of the first")
            places[1].rename(places[0])
        write_baseline(root, baseline=make_baseline((2000.0,)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", let_the_other_write)
    write_baseline(root, baseline=make_baseline((3000.0,)))

    assert read_baseline(stored) == make_baseline((3000.0,))
    assert list(stored.parent.iterdir()) == [stored]


def test_other_users_of_the_host_may_take_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))

    write_baseline(tmp_path / "baselines", baseline=make_baseline())

    (lock,) = (tmp_path / "locks").iterdir()
    assert lock.stat().st_mode & 0o777 == 0o666


def test_what_a_killed_update_left_aside_is_replaced_by_the_next(tmp_path: Path, stored: Path) -> None:
    aside = tmp_path / "aside.tmp"
    aside.write_text("half of a ba")
    aside.chmod(0o400)

    write_atomically(tmp_path / "file.json", text="whole", aside_name=aside.name)

    assert (tmp_path / "file.json").read_text() == "whole"
    assert not aside.exists()


def test_a_folder_that_can_not_be_looked_into_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaselineError, match=r"case\.json: cannot be read: File name too long"):
        find_baseline(tmp_path / ("x" * 300), system="cpu", case="case")


@pytest.mark.parametrize("link", ["relative", "absolute", "of a link", "folder"])
def test_a_link_is_written_through_and_stays(tmp_path: Path, stored: Path, link: str) -> None:
    shared = tmp_path / "elsewhere" / "cpu" / stored.name
    (tmp_path / "elsewhere").mkdir()
    stored.parent.rename(shared.parent)
    if link == "folder":
        stored.parent.symlink_to(shared.parent)
    else:
        stored.parent.mkdir()
        stored.symlink_to(shared if link == "absolute" else f"../../elsewhere/cpu/{shared.name}")
    if link == "of a link":
        real = shared.rename(tmp_path / "real.json")
        shared.symlink_to(real)
    was_link = (stored.is_symlink(), shared.is_symlink(), stored.parent.is_symlink())

    old = write_baseline(tmp_path / "baselines", baseline=make_baseline((2000.0,)))

    assert old == make_baseline()
    assert (stored.is_symlink(), shared.is_symlink(), stored.parent.is_symlink()) == was_link
    assert read_baseline(stored) == read_baseline(shared) == make_baseline((2000.0,))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_file_of_another_file_system_is_written_aside_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "file.json").symlink_to("elsewhere/file.json")
    renamed: list[tuple[Path, Path]] = []
    replace_file = Path.replace

    def note(path: Path, target: Path) -> Path:
        renamed.append((path, target))
        return replace_file(path, target)

    monkeypatch.setattr(Path, "replace", note)

    write_atomically(tmp_path / "file.json", text="whole")

    ((aside, target),) = renamed
    assert aside.parent == target.parent == tmp_path / "elsewhere"


def test_links_that_lead_in_a_circle_are_no_place_for_a_baseline(tmp_path: Path, stored: Path) -> None:
    stored.unlink()
    stored.symlink_to(stored.name)

    with pytest.raises(BaselineError, match="cannot be written: Too many levels of symbolic links"):
        write_baseline(tmp_path / "baselines", baseline=make_baseline())

    assert stored.is_symlink()
