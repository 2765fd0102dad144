from __future__ import annotations

from pytest_nemoperf.report.markdown.release_delta import delta_table
from pytest_nemoperf.report.release_text import delta_sentence
from pytest_nemoperf.results.release_delta import compare_releases
from pytest_nemoperf.results.row import Release, Row
from tests.results.row_builders import make_origin, make_release, make_row

NEW_TORCH = make_origin(commit="fedcba987654", versions={"torch": "2.9.0", "python": "3.12.1"})


def table_of(now: Release, then: Release) -> list[list[str]]:
    lines = delta_table(compare_releases(now, then=then))
    cells = []
    for line in lines:
        if line.startswith("|"):
            cells.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return cells


def row(case: str, rate: float, **changes: object) -> Row:
    return make_row((rate, rate, rate), case=case, sessions=(f"{rate}",) * 3, **changes)


def test_slower_rows_come_first_then_faster_new_and_gone_ones() -> None:
    then = make_release("0.4", row("same", 100.0), row("faster", 100.0), row("slower", 100.0), row("gone", 7.0))
    now = make_release("0.5", row("same", 100.1), row("faster", 150.0), row("slower", 50.0), row("new", 8.0))

    heads, _, *rows = table_of(now, then)

    assert heads == ["System", "Case", "Metric", "0.4", "0.5", "Ratio", "Change", "Suspects"]
    assert [each[1] for each in rows] == ["slower", "faster", "same", "new", "gone"]
    assert [each[6] for each in rows] == ["slower", "faster", "within noise", "new", "gone"]
    assert rows[0][2:5] == ["tokens/sec/GPU", "100", "50"]
    assert rows[0][5].startswith(r"0.500 \[0.")
    assert rows[3][3:6] == ["-", "8", "-"]
    assert rows[4][3:6] == ["7", "-", "-"]


def test_what_differs_in_all_cases_is_told_once_below_the_table() -> None:
    then = make_release("0.4", row("a", 100.0), row("b", 100.0, settings={"seq_len": 4096}))
    now = make_release(
        "0.5", row("a", 50.0, origin=NEW_TORCH), row("b", 50.0, settings={"seq_len": 8192}, origin=NEW_TORCH)
    )

    lines = delta_table(compare_releases(now, then=then))

    assert "In all cases that both have: torch 2.8.0 to 2.9.0, commit 0123456789ab to fedcba987654." in lines
    assert [each[7] for each in table_of(now, then)[2:]] == ["", "seq_len 4096 to 8192"]


def test_many_suspects_are_cut_short() -> None:
    settings = {f"key{number}": number for number in range(9)}
    then = make_release("0.4", row("a", 100.0, settings=dict.fromkeys(settings, -1)))
    now = make_release("0.5", row("a", 50.0, settings=settings))

    (cells,) = table_of(now, then)[2:]

    assert cells[7].endswith("key5 -1 to 5, and 3 more")


def test_a_single_run_says_why_it_has_no_interval() -> None:
    then = make_release("0.4", make_row((100.0,)))
    now = make_release("0.5", make_row((90.0,)))

    (cells,) = table_of(now, then)[2:]

    assert cells[5:7] == ["0.900", "no interval: a single run shows no scatter"]


def test_the_sentence_counts_each_kind() -> None:
    then = make_release(
        "0.4", row("a", 100.0), row("b", 100.0), make_row((1.0,), case="c"), make_row(values={}, case="d")
    )
    now = make_release(
        "0.5", row("a", 50.0), row("b", 150.0), make_row((2.0,), case="c"), make_row(case="d"), row("e", 1.0)
    )

    sentence = delta_sentence(compare_releases(now, then=then))

    assert sentence == (
        "Release 0.5 against 0.4: 1 case slower, 1 case faster, 1 case without an interval, "
        "1 case not comparable, 1 new."
    )


def test_empty_releases_have_no_table() -> None:
    lines = delta_table(compare_releases(make_release("2"), then=make_release("1")))

    assert lines == ["Release 2 against 1: no case in either.", ""]
