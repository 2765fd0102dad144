from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.results.release_delta import (
    ChangeKind,
    common_suspects,
    compare_releases,
    row_change,
    settings_differences,
    suspect_text,
)
from pytest_nemoperf.results.row import Row, RowKind
from tests.results.row_builders import make_origin, make_release, make_row

LATER: dict[str, Any] = {"sessions": ("2026-11-20T10:00:00Z",) * 3}


def rates(middle: float, **changes: Any) -> Row:
    return make_row((middle * 0.999, middle, middle * 1.001), **{**LATER, **changes})


def test_rows_are_matched_by_system_and_case() -> None:
    then = make_release("1", rates(100.0, case="a"), rates(100.0, case="b"), rates(50.0, case="a", system="cpu"))
    now = make_release("2", rates(100.0, case="a", system="cpu"), rates(100.0, case="c"), rates(200.0, case="a"))

    delta = compare_releases(now, then=then)

    assert (delta.name, delta.previous) == ("2", "1")
    assert [(change.now.system, change.now.case) for change in delta.changes] == [("cpu", "a"), ("h100", "a")]
    assert [change.ratio.value for change in delta.changes if change.ratio] == [2.0, 2.0]
    assert [row.case for row in delta.new] == ["c"]
    assert [row.case for row in delta.gone] == ["b"]
    assert not delta.is_empty


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        pytest.param(rates(150.0), ChangeKind.FASTER, id="faster"),
        pytest.param(rates(70.0), ChangeKind.SLOWER, id="slower"),
        pytest.param(rates(100.1), ChangeKind.SAME, id="noise"),
        pytest.param(make_row((99.0,)), ChangeKind.UNSURE, id="one run"),
        pytest.param(make_row((100.0,)), ChangeKind.SAME, id="one run of the same figure"),
        pytest.param(make_row(values={}), ChangeKind.NOT_COMPARABLE, id="no figure"),
    ],
)
def test_a_change_is_one_only_beyond_the_noise(now: Row, kind: ChangeKind) -> None:
    change = row_change(now, then=rates(100.0, sessions=("2026-11-01T10:00:00Z",) * 3))

    assert change.kind is kind


def test_more_time_per_call_is_slower() -> None:
    then = make_row(values={"time_per_call_sec": (1.0, 1.001, 0.999)})
    now = make_row(values={"time_per_call_sec": (2.0, 2.001, 1.999)}, **LATER)

    change = row_change(now, then=then)

    assert (change.kind, change.metric) == (ChangeKind.SLOWER, "time_per_call_sec")


def test_suspects_are_settings_then_what_is_watched_then_the_commit() -> None:
    then = make_row(settings={"seq_len": 8192, "layout": {"tp": 2}, "recompute": "none"}, flops_convention="a")
    now = make_row(
        settings={"seq_len": 8192, "layout": {"tp": 2, "cp": 2}, "recompute": "full"},
        flops_convention="b",
        origin=make_origin(
            commit="fedcba987654",
            container="nemo:26.02",
            versions={"torch": "2.9.0", "python": "3.12.2", "gpu.clock": "1980 MHz"},
        ),
    )

    change = row_change(now, then=then)

    assert [suspect_text(each) for each in change.suspects] == [
        "layout.cp the default to 2",
        "recompute none to full",
        "flops_convention a to b",
        "container none to nemo:26.02",
        "gpu.clock none to 1980 MHz",
        "torch 2.8.0 to 2.9.0",
        "commit 0123456789ab to fedcba987654",
    ]


def test_nothing_is_suspected_of_rows_that_do_not_tell_their_environment() -> None:
    published = make_row((100.0,), origin=make_origin(kind=RowKind.PUBLISHED, versions={}, commit="fedcba987654"))

    change = row_change(published, then=make_row(settings={"seq_len": 1}))

    assert change.suspects == ()
    assert settings_differences(published, then=make_row(settings={"seq_len": 1})) == []


def test_suspects_of_all_changes_are_common_and_those_of_some_are_not() -> None:
    origin = make_origin(versions={"torch": "2.9.0", "python": "3.12.1"})
    other = make_origin(versions={"torch": "2.9.0", "python": "3.12.1", "cuda": "13"})
    then = make_release("1", make_row(case="a"), make_row(case="b"))
    now = make_release("2", make_row(case="a", origin=origin), make_row(case="b", origin=other))

    changes = compare_releases(now, then=then).changes

    assert [each.name for each in common_suspects(changes)] == ["torch"]
    assert common_suspects(changes[:1]) == []


def test_a_release_with_the_rows_of_another_changes_nothing() -> None:
    rows = [make_row(case="a"), make_row(case="b")]
    frozen = [make_row(case=row.case, origin=make_origin(release="2")) for row in rows]

    assert compare_releases(make_release("2", *frozen), then=make_release("1", *rows)).is_empty


def test_a_long_value_is_shortened() -> None:
    then = make_row(settings={"note": "x" * 500})
    now = make_row(settings={"note": "y" * 500})

    (difference,) = settings_differences(now, then=then)

    assert len(suspect_text(difference)) < 150
