from __future__ import annotations

import re
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.json_codec import from_json, to_json
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import make_plan

STEP = r"step (?P<step>\d+) took (?P<step_time_sec>\S+) s"


def test_one_pattern_needs_no_tuple() -> None:
    pattern: Any = STEP

    assert LogFormat(kind=LogKind.TEXT, patterns=pattern).patterns == (STEP,)


def test_its_quantities_are_those_of_all_patterns() -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(STEP, r"data (?P<phase__data_sec>\S+)"))

    assert list(log_format.names()) == ["step", "step_time_sec", "phase.data_sec"]


CLOCKED = [
    ({"end_time_sec": "t", "loss": "l"}, True),
    ({"end_time_sec": "t", "tokens_per_sec": "r"}, False),
    ({"step_time_ms": "t"}, False),
    ({"end_time_sec": "wall_time"}, True),  # a name like any other, but of a tag
]


@pytest.mark.parametrize(("fields", "is_clocked"), CLOCKED)
def test_times_that_follow_from_a_clock_alone_are_told(fields: dict[str, str], is_clocked: bool) -> None:  # noqa: FBT001 (a case)
    assert LogFormat(kind=LogKind.JSONL, fields=fields).is_clocked is is_clocked


def test_a_plan_with_a_format_is_read_back_from_its_file() -> None:
    plan = make_plan(
        framework="command",
        command=("train",),
        log_format=LogFormat(kind=LogKind.TEXT, patterns=(STEP,), comma="thousands"),
    )

    assert from_json(Plan, to_json(plan), subject="plan.json") == plan


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "kind": ({"kind": "xml", "fields": {"loss": "l"}}, "unknown kind of log 'xml'; known: csv, dict, json"),
    "no patterns": ({"kind": "text"}, "a log of kind text needs patterns, and only these; give patterns=..."),
    "patterns too many": ({"kind": "csv", "patterns": (STEP,)}, "a log of kind csv needs fields, and only these"),
    "no fields": ({"kind": "csv"}, "a log of kind csv needs fields, and only these; give fields=..."),
    "quantity": (
        {"kind": "csv", "fields": {"step_time": "t"}},
        "log_format: unknown quantity 'step_time'; did you mean",
    ),
    "group": (
        {"kind": "text", "patterns": (r"(?P<los>\S+)",)},
        "log_format: unknown quantity 'los'; did you mean loss?",
    ),
    "expression": ({"kind": "text", "patterns": ("(",)}, "log_format: '(' is no regular expression: missing )"),
    "patterns that are none": ({"kind": "text", "patterns": 3}, "log_format: patterns=3 must be regular expressions"),
    "pattern that is none": (
        {"kind": "text", "patterns": (3,)},
        "log_format: patterns=(3,) must be regular expressions",
    ),
    "fields that are a list": (
        {"kind": "csv", "fields": ["step"]},
        "log_format: fields=['step'] must be a dict of key",
    ),
    "key that is no text": (
        {"kind": "csv", "fields": {"step": 1}},
        "log_format: fields has 'step': 1, and both must be",
    ),
    "key that is empty": (
        {"kind": "csv", "fields": {"step": ""}},
        "log_format: fields has 'step': '', and both must be",
    ),
    "quantity that is no text": (
        {"kind": "csv", "fields": {1: "t"}},
        "log_format: fields has 1: 't', and both must be",
    ),
    "pattern that names nothing": (
        {"kind": "text", "patterns": (STEP, r"loss (\S+)")},
        r"log_format: 'loss (\\S+)' names no quantity; put named groups around its numbers, such as (?P<step_time_sec>",
    ),
    "no time": (
        {"kind": "csv", "fields": {"step": "step", "loss": "l", "start_time_sec": "t"}},
        "log_format: no time, rate or clock among its quantities (loss, start_time_sec, step); name one of "
        "step_time_sec, step_time_ms, tokens_per_sec, tokens_per_sec_per_gpu, end_time_sec",
    ),
    "no time in patterns": (
        {"kind": "text", "patterns": (r"loss (?P<loss>\S+)",)},
        "log_format: no time, rate or clock among its quantities (loss); name one of step_time_sec,",
    ),
    "comma": (
        {"kind": "csv", "fields": {"loss": "l"}, "comma": "."},
        "log_format: comma='.' must be one of '', 'thousands'",
    ),
}


@pytest.mark.parametrize(("values", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_format_that_breaks_a_rule_says_which(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(reason)):
        LogFormat(**values)
