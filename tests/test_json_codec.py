from __future__ import annotations

import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_nemoperf.errors import BaselineError, RecipeError, RecordError
from pytest_nemoperf.json_codec import (
    MAX_DEPTH,
    parse_json,
    plain_mapping,
    read_data,
    read_json,
    to_json,
    to_json_line,
    to_printed_json,
)
from pytest_nemoperf.recipes.recipe import Precision
from pytest_nemoperf.visible import readable_text


class Scalar(float):
    """A number that is not quite Python's own, as numpy's are."""


class Shape(tuple[int, ...]):
    """A tuple of a library's own, as torch's sizes are."""


class Kernel(Enum):
    FUSED = (1, 2)


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.sampled_from(Precision),
    st.sampled_from(Kernel),
)
mappings = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
        ),
        max_leaves=8,
    ),
    max_size=4,
)


@given(mappings)
def test_what_is_taken_is_what_a_file_gives_back(value: dict[str, Any]) -> None:
    try:
        taken = plain_mapping(value, subject="workload")
    except RecipeError:
        return

    # repr: True is not 1, and 1 is not 1.0
    assert repr(taken) == repr(json.loads(json.dumps(taken)))
    assert json.loads(to_json(taken).encode()) == taken
    assert repr(plain_mapping(taken, subject="workload")) == repr(taken)


def test_sequences_are_lists_and_members_of_an_enum_their_values() -> None:
    value = MappingProxyType(
        {
            "shape": Shape((32, 128)),
            "precision": Precision.BF16,
            "kernel": Kernel.FUSED,
            "of": OrderedDict(a=(None, True)),
        }
    )

    taken = plain_mapping(value, subject="workload")

    assert repr(taken) == ("{'shape': [32, 128], 'precision': 'bf16', 'kernel': [1, 2], 'of': {'a': [None, True]}}")


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"inner": value}
    return value


def _in_itself() -> dict[str, Any]:
    items: list[Any] = []
    items.append(items)
    return {"items": items}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        pytest.param(
            {"lr": Scalar(0.1)}, r"workload\['lr'\]=0.1 is of type tests\.test_json_codec\.Scalar, which", id="s"
        ),
        pytest.param({"data": Path("a")}, r"workload\['data'\]=PosixPath\('a'\) is of type pathlib", id="path"),
        pytest.param({"sizes": [1, {2}]}, r"workload\['sizes'\]\[1\]=\{2\} is of type set", id="set in a list"),
        pytest.param({"raw": b"x"}, r"workload\['raw'\]=b'x' is of type bytes", id="bytes"),
        pytest.param({"dtype": float}, r"workload\['dtype'\]=<class 'float'> is of type type", id="class"),
        pytest.param({"x": "y" * 99, "z": range(3)}, r"workload\['z'\]=range\(0, 3\) is of type range", id="range"),
        pytest.param({1: 2}, r"workload: key 1 must be a text", id="number as key"),
        pytest.param({"a": {None: 2}}, r"workload\['a'\]: key None must be a text", id="none as key"),
        pytest.param({"a": 1, 2: 3}, r"workload: key 2 must be a text", id="mixed keys"),
        pytest.param({"lr": float("nan")}, r"workload\['lr'\]=nan must be finite", id="nan"),
        pytest.param({"lr": float("-inf")}, r"workload\['lr'\]=-inf must be finite", id="endless"),
        pytest.param({"n": 2**64}, r"workload\['n'\] has more than 64 bits; give it as a text", id="huge"),
        pytest.param({"n": 10**5000}, r"workload\['n'\] has more than 64 bits", id="too huge to be shown"),
        pytest.param({"s": "\ud800"}, r"workload\['s'\]: '\\ud800' holds half a character", id="surrogate"),
        pytest.param({"\ud800": 1}, r"workload: key '\\ud800': .* holds half a character", id="surrogate as key"),
        pytest.param(_nested(30), r"lies 21 levels deep, at most 20 are stored", id="deep"),
        pytest.param(_in_itself(), r"lies 21 levels deep", id="in itself"),
        pytest.param([("a", 1)], r"workload=\[\('a', 1\)\] must be a mapping", id="pairs"),
        pytest.param("fused", r"workload='fused' must be a mapping", id="text"),
    ],
)
def test_what_has_no_form_in_json_is_refused_by_its_key(value: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        plain_mapping(value, subject="workload")


def test_a_long_value_is_cut_short_in_the_message() -> None:
    with pytest.raises(RecipeError, match=r"=\{(\d+, ){10,20}\d* \.\.\. is of type set"):
        plain_mapping({"ids": set(range(1000))}, subject="workload")


@given(st.text())
@example("\x9b2J\u202e\U0001f600")
def test_printed_json_is_ascii_and_the_same_data(text: str) -> None:
    printed = to_printed_json({"key": [text]})

    assert printed.isascii()
    assert json.loads(printed) == {"key": [text]}


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        pytest.param("[" * 20_000, "nested more than 64 levels deep", id="open-lists"),
        pytest.param('{"a":' * 20_000, "nested more than 64 levels deep", id="open-objects"),
        pytest.param('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice in one object", id="twice"),
        pytest.param('{"a": {"b": 1, "b": 1}}', "the key 'b' is there twice", id="twice-inside"),
        pytest.param(str(2**64), "has more than 64 bits", id="65-bits"),
        pytest.param("9" * 5_000, "999 ... has more than 64 bits", id="5000-digits"),
        pytest.param("1e999", "beyond what a float holds", id="float"),
        pytest.param(r'"\ud800"', "half a character", id="surrogate"),
        pytest.param("{", "Expecting property name", id="torn"),
    ],
)
def test_json_that_readers_stumble_over_is_refused_in_words(text: str, rule: str) -> None:
    for kind in (text, text.encode()):
        with pytest.raises(ValueError, match=rule):
            parse_json(kind)


@pytest.mark.parametrize("text", ["[" * MAX_DEPTH + "]" * MAX_DEPTH, r'["[[[[", "\"[[[["]', f'"{"[" * 999}"'])
def test_brackets_in_texts_are_no_levels(text: str) -> None:
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("number", [2**64 - 1, -(2**63), 0, 1.5e308, -(2**53)])
def test_numbers_that_files_hold_are_read_exactly(number: float) -> None:
    assert parse_json(json.dumps(number)) == number


def test_conflict_markers_are_told_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text('{\n<<<<<<< HEAD\n "a": 1\n=======\n "a": 2\n>>>>>>> other\n}\n')

    with pytest.raises(BaselineError, match=r"line 2 has a conflict marker that a merge left; take one side \(git"):
        read_json(path, error=BaselineError, corrupt_hint="restore it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1', r"not JSON: .*, truncated or corrupt; restore it$"),
        ('{"a": 1, "a": 2}', r"the key 'a' is there twice in one object; drop one of them; restore it$"),
        ("[" * 20_000, r"nested more than 64 levels deep; restore it$"),
    ],
    ids=["torn", "twice", "deep"],
)
def test_only_what_is_not_json_is_told_as_torn(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "case.json"
    path.write_text(text)

    with pytest.raises(BaselineError, match=message):
        read_json(path, error=BaselineError, corrupt_hint="restore it")


@pytest.mark.parametrize("name", ["missing.json", "n" * 5_000, "nul\0.json"])
def test_a_path_that_no_file_can_have_is_told_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_json(tmp_path / name, error=RecipeError)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain", "plain", id="ASCII"),
        pytest.param("prüfung-日本", "prüfung-日本", id="decoded"),
        pytest.param("pr\udcc3\udcbcfung", "prüfung", id="UTF-8 under LC_ALL=C"),
        pytest.param("bad-\udcff", r"bad-\xff", id="no UTF-8"),
    ],
)
def test_a_path_that_python_could_not_decode_is_stored_readably(text: str, shown: str) -> None:
    assert readable_text(text) == shown
    assert json.loads(to_json({"path": text}).encode()) == {"path": shown}
    assert parse_json(to_json_line({"path": text})) == {"path": shown}
    assert plain_mapping({"path": text}, subject="workload") == {"path": shown}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(os.mkfifo, "is a pipe or a device, not a file; give a file", id="a pipe"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), "is a pipe or a device, not a file", id="a device"),
        pytest.param(lambda path: path.mkdir(), "cannot be read: Is a directory", id="a folder"),
        pytest.param(lambda path: path.write_text(""), "not JSON", id="empty"),
        pytest.param(lambda path: path.write_bytes(b'{"a": "\xff"}'), "not JSON: .*utf-8", id="not UTF-8"),
        pytest.param(
            lambda path: path.write_text('{"a": [1, NaN]}'), r"\$\.a\[1\] is NaN; it must be a finite number", id="NaN"
        ),
        pytest.param(lambda path: path.write_text('{"a": "x"}'), r'\$\.a is "x"; it must be a whole number', id="type"),
    ],
)
def test_what_can_not_be_read_is_told_in_words_with_the_path(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "it.json"
    make(path)

    with pytest.raises(RecordError, match=f"^{re.escape(str(path))}: {message}"):
        read_data(dict[str, int], path)


def test_what_a_shell_has_opened_is_read_though_it_is_a_pipe() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"a": 1}')
    os.close(writing)

    data = read_json(Path(f"/dev/fd/{reading}"))

    os.close(reading)
    assert data == {"a": 1}
