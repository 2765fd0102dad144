from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs import lines
from pytest_nemoperf.logs.lines import Line, lines_of, parse_clock, read_lines


def texts(raw: bytes) -> list[str]:
    return [line.text for line in lines_of(raw, number=1)]


def written(raw: bytes, *, tmp_path: Path) -> Path:
    path = tmp_path / "run.log"
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1b[31mstep: 5 \x1b[38;2;180;60;0mloss: 2.5\x1b[39m\n",
        b"\x1b]0;a title\x07step: 5 loss: 2.5\n",
        b"\x1b]8;;http://x\x1b\\step: 5 loss: 2.5\n",
        b"step: 5 \x1b[1;32mloss: \x1b[0m2.5\x1b[K\r\n",
    ],
)
def test_colours_are_left_out(raw: bytes) -> None:
    assert texts(raw) == ["step: 5 loss: 2.5"]


def test_numbers_that_only_their_colours_part_are_not_joined() -> None:
    assert texts(b"\x1b[31m5\x1b[32m10\x1b[0m s\n") == ["5 10 s"]


def test_each_picture_of_a_progress_bar_is_a_line() -> None:
    found = list(lines_of(b"\rstep 1\rstep 2\x1b[Astep 3\n", number=7))

    assert [line.text for line in found] == ["", "step 1", "step 2", "step 3"]
    assert [line.is_redrawn for line in found] == [False, True, True, True]
    assert {line.number for line in found} == {7}


def test_bytes_that_are_no_utf_8_are_replaced() -> None:
    assert texts(b"p\xe9riode 5: 2.5 s\n") == ["p\N{REPLACEMENT CHARACTER}riode 5: 2.5 s"]


def test_control_characters_are_no_blanks() -> None:
    assert texts(b"took 1\x0b5.0\x00 s\tnow\n") == [
        "took 1\N{REPLACEMENT CHARACTER}5.0\N{REPLACEMENT CHARACTER} s\tnow"
    ]


@pytest.mark.parametrize("blank", ["\xa0", "\u202f"])
def test_blanks_that_part_thousands_belong_to_the_number(blank: str) -> None:
    assert texts(f"took 1{blank}234{blank}ms\n".encode()) == [f"took 1_234{blank}ms"]


def test_a_last_line_without_its_end_is_not_whole(tmp_path: Path) -> None:
    found = list(read_lines(written(b"one\ntwo", tmp_path=tmp_path)))

    assert [(line.number, line.text, line.is_whole) for line in found] == [(1, "one", True), (2, "two", False)]


def test_the_mark_of_utf_8_is_left_out(tmp_path: Path) -> None:
    assert [line.text for line in read_lines(written(b"\xef\xbb\xbfstep\n", tmp_path=tmp_path))] == ["step"]


def test_utf_16_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = written("step 1".encode("utf-16"), tmp_path=tmp_path)

    with pytest.raises(RecordError, match=r"run\.log is UTF-16; write the log as UTF-8, or convert it: iconv"):
        list(read_lines(path))


def test_a_compressed_log_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = written(gzip.compress(b"step 1\n"), tmp_path=tmp_path)

    with pytest.raises(RecordError, match=r"run\.log is compressed; give the log itself: gzip -dk "):
        list(read_lines(path))


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1 << 20)

    with pytest.raises(RecordError, match=r"run\.log:2: a line of more than 1 MiB; this is no log of lines"):
        list(read_lines(written(b"one\n" + b"x" * (1 << 20), tmp_path=tmp_path)))


@pytest.mark.parametrize("name", ["missing.log", "."], ids=["missing", "folder"])
def test_a_file_that_can_t_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"can't be read: .*; give a log that exists and may be read"):
        list(read_lines(tmp_path / name))


def test_many_returns_in_a_row_begin_one_picture() -> None:
    assert texts(b"step 1" + b"\r" * 1000 + b"step 2\n") == ["step 1", "step 2"]


def test_lines_of_an_earlier_run_are_marked(tmp_path: Path) -> None:
    found = list(read_lines(written(b"one\ntwo\n", tmp_path=tmp_path), num_old_bytes=4))

    assert [(line.text, line.is_old) for line in found] == [("one", True), ("two", False)]


PREFIXES = {
    "[default3]: step 1": "3",
    "[rank0]:step 1": "0",
    "[trainer12|28]: step 1": "12",
    "[1,3]<stdout>: step 1": "3",
    " 7: step 1": "7",
    "(DTensorPolicyWorker pid=123, ip=10.0.0.1) step 1": "pid=123",
}


@pytest.mark.parametrize(("text", "rank"), PREFIXES.items())
def test_the_rank_in_a_launcher_s_prefix_is_found(text: str, rank: str) -> None:
    length, found = Line(number=1, text=text).prefix

    assert (text[length:], found) == ("step 1", rank)


@pytest.mark.parametrize(
    "text",
    [
        *("step 1: loss 2", "[2026-01-31 23:59:59]: step 1", "[titan] step 1", "loss: 2.5"),
        *("[a" + "1" * 100_000, " " * 100_000, "(w pid=" + "1" * 100_000),
    ],
    ids=lambda text: str(text)[:20],
)
def test_other_beginnings_are_no_prefix(text: str) -> None:
    assert Line(number=1, text=text).prefix == (0, "")


def test_the_clock_of_a_line_has_its_resolution() -> None:
    whole = Line(number=1, text=" [2026-01-31 23:59:59] iteration").clock
    parts = Line(number=1, text="[titan] 2026-02-01 00:00:00,250 - root").clock

    assert whole is not None
    assert parts is not None
    assert parts[0] - whole[0] == pytest.approx(1.25)
    assert (whole[1], parts[1]) == (1.0, 0.001)


@pytest.mark.parametrize("text", ["no clock", "2026-13-01 00:00:00 x", "x" * 200 + "2026-01-01 00:00:00"])
def test_a_line_without_a_clock_has_none(text: str) -> None:
    assert Line(number=1, text=text).clock is None


def test_a_clock_in_a_value_is_read() -> None:
    first, second = parse_clock("2026-02-01T00:00:00.500Z"), parse_clock("2026-02-01T00:00:01.750Z")

    assert first is not None
    assert second is not None
    assert second - first == pytest.approx(1.25)
    assert parse_clock("12.5") is None
