from __future__ import annotations

import json
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines import atomic
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.pages.releases import (
    check_release_name,
    frozen,
    in_order,
    list_releases,
    read_release,
    release_path,
    write_release,
)
from pytest_nemoperf.results.row import Release
from tests.results.row_builders import make_release, make_row

RATE = "tokens_per_sec_per_gpu"


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """Return the file of release 0.4."""
    path = release_path(tmp_path, name="0.4")
    write_release(path, release=make_release("0.4", make_row()))
    return path


def write_raw(path: Path, release: Release) -> None:
    path.write_text(to_json(release), encoding="utf-8")


def test_a_release_is_read_as_it_was_written(stored: Path) -> None:
    assert read_release(stored) == make_release("0.4", make_row())


@pytest.mark.parametrize("name", ["0.4", "26.02-rc1", "v1", "2026_11+b1", "x" * 64])
def test_names_of_files_are_names_of_releases(name: str) -> None:
    check_release_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "a\\b", "-x", ".hidden", "a b", "a\nb", "0.4.", "x" * 65, "a:b", "é", "a\x1b[31m"],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(BaselineError, match="its name is that of its file"):
        check_release_name(name)


def test_a_release_is_frozen_by_system_and_case_with_its_name_in_each_row() -> None:
    rows = [make_row(case="b"), make_row(case="a"), make_row(case="c", system="cpu")]

    release = frozen(rows, name="0.5", date="2026-11-30", previous="0.4")

    assert [(row.system, row.case) for row in release.rows] == [("cpu", "c"), ("h100", "a"), ("h100", "b")]
    assert {row.origin.release for row in release.rows} == {"0.5"}
    assert (release.date, release.previous) == ("2026-11-30", "0.4")


def test_a_case_that_is_there_twice_is_not_frozen() -> None:
    with pytest.raises(BaselineError, match="is there 2 times; a release holds it once; nothing is written"):
        frozen([make_row(), make_row()], name="0.5", date="2026-11-30", previous="")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"values": {RATE: (1.0, float("nan"))}}, r"\[1\] is nan; only finite", id="not finite"),
        pytest.param({"values": {RATE: (0.0,)}}, "only positive figures", id="zero"),
        pytest.param({"values": {RATE: ()}}, "is empty", id="no run"),
        pytest.param({"judged": {RATE: -1.0}}, r"judged\.tokens_per_sec_per_gpu is -1", id="judged"),
        pytest.param({"flops_per_token": -1.0}, r"\$\.rows\[0\]\.flops_per_token is -1", id="FLOPs"),
        pytest.param(
            {"values": {RATE: (10.0,), "tflops_per_sec_per_gpu": (5.0,)}, "flops_per_token": 1e12},
            "is not FLOPs per token x tokens/sec/GPU = ",
            id="identity",
        ),
        pytest.param({"settings": {"rl": {"kl": math.nan}}}, r"settings\['rl'\]\['kl'\]=nan must be", id="setting"),
        pytest.param(
            {"settings": {"layout": {"gpus": "x"}}}, 'layout.gpus is "x"; it must be a whole number', id="layout"
        ),
    ],
)
def test_figures_that_cannot_have_been_measured_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BaselineError, match=message):
        frozen([make_row(**changes)], name="0.5", date="2026-11-30", previous="")


def test_the_figures_of_a_stored_file_are_checked_too(stored: Path) -> None:
    write_raw(stored, make_release("0.4", make_row((-5.0,))))

    with pytest.raises(BaselineError, match=r"0\.4\.json: .* is -5; only positive .*; restore it"):
        read_release(stored)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("[]", "it must be an object"),
        ('{"name": "0.4", "date": "2026-11-02", "rows": [], "rowz": []}', "unknown key; did you mean rows"),
        ('{"name": "0.5", "date": "2026-11-02", "rows": []}', "holds release '0.5'; file and release must"),
    ],
)
def test_a_file_that_is_no_release_is_an_error_with_its_path(stored: Path, text: str, message: str) -> None:
    stored.write_text(text, encoding="utf-8")

    with pytest.raises(BaselineError, match=message) as caught:
        read_release(stored)

    assert str(stored) in str(caught.value)


def test_a_release_that_is_there_is_not_written_over(stored: Path) -> None:
    before = stored.read_bytes()

    with pytest.raises(BaselineError, match="is there already, and a release does not change"):
        write_release(stored, release=make_release("0.4"))

    assert stored.read_bytes() == before


def test_a_release_that_is_there_may_be_replaced(stored: Path) -> None:
    write_release(stored, release=make_release("0.4"), is_replaced=True)

    assert read_release(stored).rows == ()


def test_an_interrupt_leaves_the_old_file(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stored.read_bytes()
    monkeypatch.setattr(atomic.os, "fsync", raise_interrupt)  # type: ignore[attr-defined]  # os as the module sees it

    with pytest.raises(KeyboardInterrupt):
        write_release(stored, release=make_release("0.4"), is_replaced=True)

    assert stored.read_bytes() == before
    assert os.listdir(stored.parent) == ["0.4.json"]  # noqa: PTH208 (names are all that is asked)


def raise_interrupt(_: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = release_path(tmp_path, name="0.4")
    path.parent.mkdir()
    path.symlink_to("/dev/full/x")

    with pytest.raises(BaselineError, match=r"0\.4\.json: cannot be written: .*; what was stored before is untouched"):
        write_release(path, release=make_release("0.4"))


def _write(root: str, number: int) -> str:
    rows = [make_row(case=f"case-{number}-{index}") for index in range(50)]
    try:
        write_release(release_path(Path(root), name="0.4"), release=make_release("0.4", *rows))
    except BaselineError as exc:
        return str(exc)
    return ""


def test_of_two_writers_of_a_release_one_is_refused(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        answers = pool.starmap(_write, [(str(tmp_path), number) for number in range(4)])

    assert len([answer for answer in answers if not answer]) == 1
    assert len([answer for answer in answers if "is there already" in answer]) == 3
    assert len(read_release(release_path(tmp_path, name="0.4")).rows) == 50


def test_releases_are_in_the_order_of_their_days_but_each_after_its_previous_one() -> None:
    first = make_release("0.9", date="2026-01-01")
    second = make_release("0.10", date="2026-02-01", previous="0.9")
    third = make_release("0.10.1", date="2026-02-01", previous="0.10")
    renewed = make_release("0.9", date="2026-03-01")

    assert in_order([third, first, second]) == [first, second, third]
    assert in_order([third, renewed, second]) == [renewed, second, third]


def test_releases_that_name_each_other_as_previous_are_listed_all_the_same() -> None:
    one = make_release("a", previous="b")
    other = make_release("b", previous="a")

    assert in_order([other, one]) == [one, other]


def test_a_broken_release_is_not_left_out_of_the_list(stored: Path) -> None:
    release_path(stored.parents[1], name="0.5").write_text(json.dumps({"name": "0.5"}), encoding="utf-8")

    with pytest.raises(BaselineError, match=r"0\.5\.json: "):
        list_releases(stored.parents[1])


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "releases").write_text("", encoding="utf-8")

    with pytest.raises(BaselineError, match="releases: is no folder; move it"):
        list_releases(tmp_path)
