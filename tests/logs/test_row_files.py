from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.logs.row_files import read_file, read_rows
from pytest_nemoperf.logs.row_parsers import literal_words
from pytest_nemoperf.logs.rows import FileRows
from tests.logs.log_texts import BY_HAND

FIELDS = {"step": "step", "step_time_sec": "time/step", "loss": "loss"}
JSONL = LogFormat(kind=LogKind.JSONL, fields=FIELDS)
DICT = LogFormat(kind=LogKind.DICT, fields=FIELDS)
CSV = LogFormat(kind=LogKind.CSV, fields=FIELDS)
JSON = LogFormat(kind=LogKind.JSON, fields={"step_time_sec": "timing/step", "loss": "train/loss"})


def read(text: str, log_format: LogFormat, *, tmp_path: Path, num_old_bytes: int = 0) -> FileRows:
    path = tmp_path / "run.log"
    path.write_text(text)
    return read_file(path, log_format, num_old_bytes=num_old_bytes)


def rows(text: str, log_format: LogFormat, *, tmp_path: Path) -> list[tuple[int | None, dict[str, float]]]:
    return [(row.step, dict(row.values)) for row in read(text, log_format, tmp_path=tmp_path).rows]


LINES = {
    "text": (BY_HAND, "warming up\nstep 1: loss 2.5, took 0.5 s\nsaved\nstep 2: loss 2.25, took 0.75 s\n"),
    "jsonl": (
        JSONL,
        '{"eval_loss": 3}\n{"step": 1, "time/step": 0.5, "loss": 2.5}\nnoise\n'
        '{"step": 2, "time/step": 0.75, "loss": 2.25}',
    ),
    "dict": (
        DICT,
        "  5%|#  | {'step': 1, 'time/step': '0.5', 'loss': 2.5}\n{'eval': 1}\n"
        "{'step': 2, 'time/step': 0.75, 'loss': 2.25}\n",
    ),
    "csv": (CSV, "step,loss,time/step,epoch\n1,2.5,0.5,0\n1,,,0\n2,2.25,0.75,0\n"),
    "csv with semicolons": (CSV, "step;loss;time/step\n1;2,5;0,5\n2;2,25;0,75\n"),
}


@pytest.mark.parametrize(("log_format", "text"), LINES.values(), ids=LINES.keys())
def test_rows_are_read_among_other_lines(log_format: LogFormat, text: str, tmp_path: Path) -> None:
    assert rows(text, log_format, tmp_path=tmp_path) == [
        (1, {"step_time_sec": 0.5, "loss": 2.5}),
        (2, {"step_time_sec": 0.75, "loss": 2.25}),
    ]


def test_rows_of_one_object_come_in_the_order_of_steps(tmp_path: Path) -> None:
    text = json.dumps(
        {"train/loss": {"10": 2.25, "9": 2.5}, "timing/step": {"9": 0.5, "10": 0.75, "11": None}, "x": {}}
    )

    assert rows(text, JSON, tmp_path=tmp_path) == [
        (9, {"loss": 2.5, "step_time_sec": 0.5}),
        (10, {"loss": 2.25, "step_time_sec": 0.75}),
    ]


def test_a_key_may_lead_into_objects(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.JSONL, fields={"step_time_sec": "time.step.sec"})

    assert rows('{"time": {"step": {"sec": 0.5}}}\n', log_format, tmp_path=tmp_path) == [(None, {"step_time_sec": 0.5})]


def test_a_row_knows_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    path.write_text(LINES["text"][1])

    assert [row.where for row in read_rows(path, BY_HAND)] == [f"{path}:2", f"{path}:4"]


def test_patterns_of_one_line_make_one_row(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(r"step (?P<step>\d+)", r"took (?P<step_time_ms>\S+) ms"))

    assert rows("step 3 took 12.5 ms\n", log_format, tmp_path=tmp_path) == [(3, {"step_time_ms": 12.5})]


def test_underscores_of_a_group_stand_for_the_dot_of_a_quantity(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(r"data (?P<phase__data_sec>\S+)s of (?P<step_time_sec>\S+)s",))

    assert rows("data 0.25s of 0.5s\n", log_format, tmp_path=tmp_path) == [
        (None, {"phase.data_sec": 0.25, "step_time_sec": 0.5})
    ]


CLOCKS = {
    "jsonl": (
        LogFormat(kind=LogKind.JSONL, fields={"start_time_sec": "start", "end_time_sec": "end"}),
        '{"start": "2026-01-31 23:59:59.5", "end": "2026-02-01T00:00:00.250Z"}\n',
    ),
    "text": (
        LogFormat(kind=LogKind.TEXT, patterns=(r"from (?P<start_time_sec>.+) to (?P<end_time_sec>.+)$",)),
        "from 2026-01-31 23:59:59.5 to 2026-02-01 00:00:00.25\n",
    ),
}


@pytest.mark.parametrize(("log_format", "text"), CLOCKS.values(), ids=CLOCKS.keys())
def test_clocks_at_both_ends_of_a_step_may_be_dates(log_format: LogFormat, text: str, tmp_path: Path) -> None:
    ((_, values),) = rows(text, log_format, tmp_path=tmp_path)

    assert values["end_time_sec"] - values["start_time_sec"] == 0.75


def test_the_rank_of_a_prefix_is_kept(tmp_path: Path) -> None:
    text = "3: step 1: loss 2.5, took 0.5 s\n[rank4]: step 1: loss 2.5, took 0.5 s\n"

    assert [row.rank for row in read(text, BY_HAND, tmp_path=tmp_path).rows] == ["3", "4"]


def test_a_number_at_the_beginning_that_is_the_step_is_no_rank(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(r"^(?P<step>\d+): took (?P<step_time_sec>\S+)s$",))

    (row,) = read("7: took 0.5s\n", log_format, tmp_path=tmp_path).rows

    assert (row.step, row.rank) == (7, "")


def test_a_pattern_that_is_anchored_matches_behind_a_prefix(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(r"^step (?P<step>\d+) (?P<step_time_sec>\S+)s$",))

    (row,) = read("[default0]:step 7 0.5s\n", log_format, tmp_path=tmp_path).rows

    assert (row.step, row.rank) == (7, "0")


def test_a_head_that_is_written_again_is_no_row(tmp_path: Path) -> None:
    text = "step,loss,time/step\n1,2.5,0.5\nstep,loss,time/step\n2,2.25,0.75\n"

    assert [step for step, _ in rows(text, CSV, tmp_path=tmp_path)] == [1, 2]


def test_nan_and_infinity_are_left_to_be_judged(tmp_path: Path) -> None:
    text = "{'step': 1, 'loss': nan}\n{'step': 2, 'loss': -inf}\n{'step': 3, 'loss': 'nan', 'note': 'nan and inf'}\n"

    losses = [values["loss"] for _, values in rows(text, DICT, tmp_path=tmp_path)]

    assert math.isnan(losses[0])
    assert losses[1] == -math.inf
    assert math.isnan(losses[2])


TORN = {
    "number cut by the pattern": (
        LogFormat(kind=LogKind.TEXT, patterns=(r"step (?P<step>\d+).*?(?P<step_time_ms>[\d.]+) ms",)),
        "step 1 took 1,234 ms",
        "step_time_ms='234' is only a part of the number '1,234'; let the group of",
    ),
    "exponent cut by the pattern": (
        LogFormat(kind=LogKind.TEXT, patterns=(r"loss (?P<loss>[\d.]+)", r"took (?P<step_time_sec>\S+)")),
        "loss 1.5e-05",
        "loss='1.5' is only a part of the number '1.5e-05'",
    ),
    "no number": (BY_HAND, "step 1: loss high, took 0.5 s", "loss='high' is no number"),
    "either comma": (
        BY_HAND,
        "step 1: loss 2,345, took 0.5 s",
        "loss='2,345' may be a number with a thousands comma or",
    ),
    "step that is none": (BY_HAND, "step 1.5: loss 2, took 0.5 s", "step=1.5 must be a whole number >= 0"),
    "step below 0": (BY_HAND, "step -1: loss 2, took 0.5 s", "step=-1 must be a whole number >= 0"),
    "step that is NaN": (BY_HAND, "step nan: loss 2, took 0.5 s", "step=nan must be a whole number >= 0"),
    "step that is infinite": (BY_HAND, "step inf: loss 2, took 0.5 s", "step=inf must be a whole number >= 0"),
    "two steps in a line": (
        LogFormat(kind=LogKind.TEXT, patterns=(r"step (?P<step>\d+) .*took (?P<step_time_sec>\S+) s",)),
        "step 1 step 2 took 0.5 s took 0.75 s",
        "steps 1 and 2 in one line, 'step 1 step 2 took 0.5 s took 0.75 s': two processes write into one file",
    ),
    "two patterns of one quantity": (
        LogFormat(
            kind=LogKind.TEXT, patterns=(r"step took (?P<step_time_sec>\S+) s", r"last took (?P<step_time_sec>\S+) s")
        ),
        "step took 0.5 s last took 0.75 s",
        "step_time_sec is 0.5 by one pattern and 0.75 by another; name it once",
    ),
    "torn object": (JSONL, '{"step": 1, "loss"', 'a torn line, \'{"step": 1, "loss"\': '),
    "key twice": (JSONL, '{"step": 1, "loss": 2, "loss": 3}', "the key 'loss' is there twice"),
    "list": (JSONL, '{"step": 1, "loss": [2, 3]}', r"loss=[2, 3] is no number"),
    "bool": (JSONL, '{"step": 1, "loss": true}', "loss=True is no number"),
    "word": (JSONL, '{"step": 1, "loss": "low"}', "loss='low' is no number"),
    "digits without end": (JSONL, '{"step": 1, "loss": 1' + "0" * 400 + "}", "a torn line"),
    "object in objects": (JSONL, '{"loss":' * 100_000 + "1", "a torn line"),
    "torn dict": (DICT, "{'step': 1, 'loss': 2", "a torn line"),
    "no dict": (DICT, "{'step': 1, 'loss': f(x)}", "a torn line"),
    "too few cells": (
        CSV,
        "step,loss,time/step\n1,2.5",
        "2 cells under a head of 3 columns, '1,2.5'; write each line whole",
    ),
    "too many cells": (CSV, "step,loss,time/step\n1,2.5,0.5,7", "4 cells under a head of 3 columns"),
    "no step column": (
        CSV,
        "Step,loss,time/step\n1,2.5,0.5",
        "no column 'step', which counts the steps; did you mean Step or time/step?",
    ),
    "no step key": (JSONL, '{"Step": 1, "loss": 2}', "no 'step' here or below; name the key that counts the steps"),
    "column twice": (CSV, "step,loss,loss\n1,2.5,0.5", "two columns are called 'loss'; the log must have one"),
}


@pytest.mark.parametrize(("log_format", "text", "reason"), TORN.values(), ids=TORN.keys())
def test_a_torn_line_is_named(log_format: LogFormat, text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=rf"run\.log:\d+: {re.escape(reason)}|run\.log:\d+: .*{re.escape(reason)}"):
        read(text + "\n", log_format, tmp_path=tmp_path)


def test_a_torn_line_after_a_step_is_named_whatever_is_left_of_it(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"run\.log:2: a torn line, '\{\"st'"):
        read('{"step": 1, "loss": 2.5}\n{"st\n', JSONL, tmp_path=tmp_path)


TORN_OBJECTS = {
    "torn": ('{"timing/step": {"1": 0.5', "is no JSON, or not all of it: .*; let its writer end well"),
    "no object": ("[1, 2]", "holds no JSON object; the format is value by step by metric"),
    "no series": ('{"timing/step": 0.5}', "timing/step is no object; the format is value by step by metric"),
    "no step": ('{"timing/step": {"last": 0.5}}', "timing/step of step last: step='last' is no number"),
    "step twice": ('{"timing/step": {"1": 0.5, "1": 0.75}}', "the key '1' is there twice"),
    "no number": ('{"timing/step": {"1": "fast"}}', "timing/step of step 1: timing/step='fast' is no number"),
}


@pytest.mark.parametrize(("text", "reason"), TORN_OBJECTS.values(), ids=TORN_OBJECTS.keys())
def test_an_object_that_is_not_of_the_form_is_named(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=rf"run\.log:? .*{reason}|run\.log: {reason}"):
        read(text, JSON, tmp_path=tmp_path)


def test_the_same_step_by_two_spellings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"timing/step of step 1\.0: step 1 is there twice"):
        read('{"timing/step": {"1": 0.5, "1.0": 0.75}}', JSON, tmp_path=tmp_path)


UNFINISHED = {
    "text": (BY_HAND, "step 1: loss 2.5, took 0.5 s\nstep 2: loss 2.25, took 0.75 s"),
    "object": (JSONL, '{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.2'),
    "dict": (DICT, "{'step': 1, 'loss': 2.5}\n{'step': 2, 'loss': 2.2"),
    "cell": (CSV, "step,loss,time/step\n1,2.5,0.5\n2,2.25,0.7"),
}


@pytest.mark.parametrize(("log_format", "text"), UNFINISHED.values(), ids=UNFINISHED.keys())
def test_a_last_line_that_may_be_cut_is_left_out_with_a_word(log_format: LogFormat, text: str, tmp_path: Path) -> None:
    found = read(text, log_format, tmp_path=tmp_path)

    assert [row.step for row in found.rows] == [1]
    assert re.search(r"run\.log:\d: the last line, .*, is not finished; it was left out", found.notes[0])


def test_a_last_object_without_a_newline_is_whole(tmp_path: Path) -> None:
    found = read('{"step": 1, "loss": 2.5}', JSONL, tmp_path=tmp_path)

    assert [row.step for row in found.rows] == [1]
    assert found.notes == ()


def test_rows_of_an_earlier_run_are_left_out_and_the_head_of_its_table_is_not(tmp_path: Path) -> None:
    old = "step,loss,time/step\n1,2.5,0.5\n"

    found = read(f"{old}1,2.25,0.75\n", CSV, tmp_path=tmp_path, num_old_bytes=len(old))

    assert [(row.where.rpartition(":")[2], row.values["loss"]) for row in found.rows] == [("3", 2.25)]
    assert found.num_lines == 1


def test_a_huge_line_is_no_obstacle(tmp_path: Path) -> None:
    text = "x" * 3_000_000 + "\n" + "step 1: loss 2.5, took 0.5 s\n" + "step 2" + " " * 3_000_000 + "\n"

    assert [row.step for row in read(text, BY_HAND, tmp_path=tmp_path).rows] == [1]


NEAREST = {
    "words of the pattern": (
        BY_HAND,
        "epoch 1\nstep 1: loss 2.5, needed 0.5 s\nsaved in 3 s\n",
        "run.log:2: step 1: loss",
    ),
    "another language": (BY_HAND, "Los geht es\nSchritt 1: Verlust 2.5, Dauer 0.5 s\nfertig\n", "run.log:2: Schritt 1"),
    "keys": (JSONL, 'noise\n{"Step": 1, "time": 0.5}\n', 'run.log:2: {"Step": 1'),
    "columns": (CSV, "Step,Time\n1,0.5\n", "run.log:1: Step,Time"),
    "metrics": (JSON, '{"timing/steps": {"1": 0.5}}', "run.log: no 'timing/step'; did you mean timing/steps?"),
}


@pytest.mark.parametrize(("log_format", "text", "nearest"), NEAREST.values(), ids=NEAREST.keys())
def test_the_nearest_line_of_a_file_of_another_form_is_shown(
    log_format: LogFormat, text: str, nearest: str, tmp_path: Path
) -> None:
    found = read(text, log_format, tmp_path=tmp_path)

    assert found.rows == ()
    assert nearest in found.nearest


def test_the_words_of_a_pattern_are_those_that_stand_in_it() -> None:
    assert literal_words(r"Step (?P<step>\d+) \| took (?P<step_time_ms>[\d.]+) ms") == {"step", "took"}
