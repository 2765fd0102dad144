from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nemoperf.errors import BaselineError, PageError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.pages.releases import release_path, write_release
from pytest_nemoperf.pages.sources import PageRows, read_page_rows, version_key
from pytest_nemoperf.published.row import ExcludedRow, PublishedRow, PublishedRows
from tests.results.row_builders import make_release, make_row


def read(folder: Path, *, release: str = "") -> PageRows:
    return read_page_rows(folder, results=(), has_baselines=True, release=release)


def make_published(name: str) -> PublishedRow:
    return PublishedRow(
        id=name, source="example.org", path="https://example.org/a", release="1.0", task="pretrain", framework="nemo",
        model="LLAMA3 8B", system="h100", system_title="DGX-H100", gpus=8, printed={"tokens_per_sec_per_gpu": "100"},
    )  # fmt: skip


def test_releases_are_ordered_by_their_numbers_and_a_branch_is_older() -> None:
    names = ["v0.10", "v0.9", "26.04", "26.04.01", "main", "NeMo 25.07", "v0.10.1"]

    ordered = sorted(names, key=version_key)

    assert ordered == ["main", "v0.9", "v0.10", "v0.10.1", "NeMo 25.07", "26.04", "26.04.01"]


def test_rows_that_the_package_ships_are_there_without_any_folder(tmp_path: Path) -> None:
    rows = read(tmp_path / "none")

    assert rows.measured == ()
    assert rows.releases == ()
    assert len(rows.published) == len(rows.printed) > 500
    assert {row.origin.release for row in rows.published} > {"v0.4", "v0.5", "v0.6", "26.08"}


def test_a_published_row_has_the_convention_of_its_page(tmp_path: Path) -> None:
    rows = {row.case: row for row in read(tmp_path).published}

    printed = [row for row in rows.values() if "tflops_per_sec_per_gpu" in row.values]
    assert {row.flops_convention for row in printed} > {"megatron-bridge", "megatron-bridge-25.09", "nemo-24.07"}


def test_published_rows_of_the_project_are_read_beside_its_baselines(tmp_path: Path) -> None:
    own = PublishedRows(
        rows=(make_published("own1"),), excluded=(ExcludedRow(row=make_published("own2"), reason="contradicts"),)
    )
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "h100.json").write_text(to_json(own), encoding="utf-8")

    rows = read(tmp_path)

    assert rows.printed["own1"] == make_published("own1")
    assert rows.excluded[-1].reason == "contradicts"


def test_a_shipped_row_that_the_project_excludes_or_repeats_is_there_once(tmp_path: Path) -> None:
    shipped = read(tmp_path)
    shown, hidden = next(iter(shipped.printed.values())), shipped.excluded[0].row
    own = PublishedRows(rows=(hidden,), excluded=(ExcludedRow(row=shown, reason="not ours"), *shipped.excluded[1:]))
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "h100.json").write_text(to_json(own), encoding="utf-8")

    rows = read(tmp_path)

    assert len(rows.printed) == len(shipped.printed)
    assert len(rows.excluded) == len(shipped.excluded)
    assert hidden.id in rows.printed
    assert {each.row.id: each.reason for each in rows.excluded}[shown.id] == "not ours"


def test_a_broken_file_of_published_rows_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "h100.json").write_text(json.dumps({"rows": [{"id": 1}]}), encoding="utf-8")

    with pytest.raises(BaselineError, match=r"published/h100\.json: \$\.rows\[0\]"):
        read(tmp_path)


def test_releases_come_newest_first(tmp_path: Path) -> None:
    for name, previous in (("0.9", ""), ("0.10", "0.9")):
        release = make_release(name, make_row(), previous=previous)
        write_release(release_path(tmp_path, name=name), release=release)

    assert [release.name for release in read(tmp_path).releases] == ["0.10", "0.9"]


def test_the_rows_of_a_release_stand_for_the_measured_ones(tmp_path: Path) -> None:
    write_release(release_path(tmp_path, name="0.4"), release=make_release("0.4", make_row(case="frozen")))

    rows = read(tmp_path, release="0.4")

    assert [row.case for row in rows.measured] == ["frozen"]
    assert rows.release == "0.4"


def test_a_release_that_is_not_there_is_an_error_with_those_that_are(tmp_path: Path) -> None:
    write_release(release_path(tmp_path, name="0.4"), release=make_release("0.4", make_row()))

    with pytest.raises(PageError, match=r"--release=0\.5: no such release in .*releases \(0\.4\)"):
        read(tmp_path, release="0.5")


def test_a_corrupt_release_is_an_error_with_its_path(tmp_path: Path) -> None:
    path = release_path(tmp_path, name="0.4")
    path.parent.mkdir()
    path.write_text("{", encoding="utf-8")

    with pytest.raises(BaselineError, match=r"0\.4\.json: not JSON"):
        read(tmp_path)
