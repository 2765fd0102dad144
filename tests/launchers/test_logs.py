from __future__ import annotations

from pathlib import Path

import pytest

from pytest_nemoperf.launchers.logs import first_traceback, tail_of

TRACEBACK = """Traceback (most recent call last):
  File "train.py", line 3, in <module>
    raise ValueError("no such token 7")
ValueError: no such token 7"""


def prefixed(text: str, prefix: str) -> str:
    return "".join(f"{prefix}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("", "(empty log)"),
        ("one\ntwo", "one\ntwo"),
        ("".join(f"{number}\n" for number in range(40)), "\n".join(str(number) for number in range(25, 40))),
    ],
    ids=["empty", "short", "long"],
)
def test_the_tail_is_the_last_fifteen_lines(text: str, tail: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)

    assert tail_of(tmp_path / "log") == tail


def test_a_huge_log_is_read_from_its_end(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"x" * 1_000_000 + b"\nlast \xff word\n")

    assert tail_of(tmp_path / "log").endswith("\nlast \ufffd word")


def test_a_missing_log_is_said_to_be_missing(tmp_path: Path) -> None:
    assert tail_of(tmp_path / "log") == "(no log)"
    assert first_traceback(tmp_path / "log") == ""


def test_the_first_of_several_tracebacks_is_the_cause(tmp_path: Path) -> None:
    second = TRACEBACK.replace("ValueError", "ChildFailedError")
    (tmp_path / "log").write_text(f"starting\n{TRACEBACK}\nended\n{second}\n")

    assert first_traceback(tmp_path / "log") == TRACEBACK


def test_a_traceback_is_picked_out_of_the_lines_of_other_ranks(tmp_path: Path) -> None:
    failed = prefixed(TRACEBACK, "[rank1]: ").splitlines(keepends=True)
    others = prefixed(TRACEBACK.replace("token", "peer"), "[rank0]: ").splitlines(keepends=True)
    (tmp_path / "log").write_text("".join(line for pair in zip(failed, others, strict=True) for line in pair))

    assert first_traceback(tmp_path / "log") == TRACEBACK


def test_a_log_without_a_traceback_has_none(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("all is well\n")

    assert first_traceback(tmp_path / "log") == ""
