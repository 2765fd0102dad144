from __future__ import annotations

from pytest_nemoperf.report.console import to_text
from pytest_nemoperf.report.terminal.release_delta import delta_parts
from pytest_nemoperf.results.release_delta import ReleaseDelta, compare_releases
from pytest_nemoperf.results.row import Row
from tests.results.row_builders import make_release, make_row


def text_of(delta: ReleaseDelta, *, is_whole: bool = False) -> str:
    return " ".join(to_text(delta_parts(delta, is_whole=is_whole), width=100, color=False).split())


def row(case: str, rate: float) -> Row:
    return make_row((rate, rate, rate), case=case, sessions=(f"{rate}",) * 3)


def test_many_changes_are_cut_short_unless_all_are_asked_for() -> None:
    cases = [f"case-{number:02d}" for number in range(25)]
    then = make_release("1", *[row(case, 100.0) for case in cases])
    now = make_release("2", *[row(case, 50.0) for case in cases])

    short = text_of(compare_releases(now, then=then))
    whole = text_of(compare_releases(now, then=then), is_whole=True)

    assert "case-19" in short
    assert "case-20" not in short
    assert "and 5 more cases; --all shows them" in short
    assert "case-24" in whole
    assert "more case" not in whole


def test_cases_within_noise_are_counted_and_listed_only_if_asked_for() -> None:
    delta = compare_releases(make_release("2", row("a", 100.0)), then=make_release("1", row("a", 100.1)))

    assert text_of(delta) == "Release 2 against 1: 1 case within noise."
    assert "h100 a tokens/sec/GPU 100 -> 100, ratio 0.999 [" in text_of(delta, is_whole=True)


def test_new_and_gone_cases_are_told_with_their_figure() -> None:
    then = make_release("1", row("gone", 7.0))
    now = make_release("2", row("new", 8.0), make_row(values={}, case="empty"))

    text = text_of(compare_releases(now, then=then))

    assert "new h100 empty: no figure h100 new: tokens/sec/GPU 8" in text
    assert "gone h100 gone: tokens/sec/GPU 7" in text


def test_a_row_without_its_figure_is_not_comparable() -> None:
    delta = compare_releases(make_release("2", make_row(values={})), then=make_release("1", make_row((5.0,))))

    assert "tokens/sec/GPU 5 -> -, ratio - not comparable" in text_of(delta)


def test_no_case_id_is_broken_at_the_edge_of_the_terminal() -> None:
    case = "grpo-llama3.2-1b-1n1g-torch-bf16-single-gsingle-seq512-gbs32-mbs8-p8g8-in128out384"
    then = make_release("1", row(case, 100.0), row(f"{case}-gone", 7.0))
    now = make_release("2", row(case, 50.0))

    lines = to_text(delta_parts(compare_releases(now, then=then), is_whole=False), width=80, color=False).splitlines()

    assert f"  h100 {case}" in lines
    assert f"  h100 {case}-gone: tokens/sec/GPU 7" in lines
