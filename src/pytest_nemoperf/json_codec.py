"""JSON codec of all file formats: dataclasses to text and back."""

from __future__ import annotations

import json
import math
import re
import stat
from collections import Counter
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from pytest_nemoperf.errors import NemoPerfError, RecipeError, RecordError, shorten, shown
from pytest_nemoperf.json_faults import explain, json_text, non_finite
from pytest_nemoperf.visible import UNDECODED, decoded, readable_text

_LINE_LENGTH = 160  # wide enough for the metrics of a run on one line
_MAX_PLAIN_DEPTH = 20
MAX_DEPTH: Final = 64
"""Levels of nesting that are read: three times what is written, and far below where Python's stack ends."""
_MAX_BYTES = 64 * 2**20  # a session's results of 1,000 cases have about 30
_MAX_MERGED_BYTES = 2**20  # of files that people merge; looking through more takes time
_MIN_INT = -(2**63)
_MAX_INT = 2**64 - 1  # the largest integer that other readers of JSON accept
_MAX_DIGITS = len(str(_MAX_INT))
_SAFE_DIGITS = _MAX_DIGITS - 1
_OPENED = ("/dev/fd/", "/dev/stdin", "/proc/")
"""Beginnings of paths that a shell gives to what it has opened."""
_OPENING = b"[{"
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_HALF_CHARACTER_MARKS = (b"\\ud", b"\\uD", b"\xed")
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")
_SHAPES = bytes.maketrans(b"123456789E", b"000000000e")
_LONG_NUMBERS = (b"0" * 19, b"e000")
"""Shapes, with 0 for any digit, of numbers that may have more than 64 bits or be beyond what a float holds."""
_CONFLICT_MARKER = re.compile(rb"^(<{7}|={7}|>{7}|\|{7})( |\r?$)", re.MULTILINE)

T = TypeVar("T")


def _decoded_in_json(match: re.Match[str]) -> str:
    return decoded(match).replace("\\", r"\\")


def to_json(value: object) -> str:
    """Return a contract dataclass as JSON for people and diffs: keys sorted, short values on one line.

    Bytes of a path that could not be decoded are as readable_text has them.
    """
    return UNDECODED.sub(_decoded_in_json, _pretty(msgspec.to_builtins(value), indent=0)) + "\n"


def to_printed_json(value: object) -> str:
    """Return a contract dataclass as to_json does, in ASCII and without commands of a terminal or of GitHub's log."""
    text = re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], to_json(value))
    return text.replace("##[", "##\\u005b")


def _pretty(value: Any, *, indent: int, prefix: str = "") -> str:
    line = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    if not value or not isinstance(value, (dict, list, tuple)) or indent + len(prefix) + len(line) <= _LINE_LENGTH:
        return prefix + line
    inner = indent + 2
    if isinstance(value, dict):
        opening, closing = "{}"
        entries = []
        for key, entry in sorted(value.items()):
            entries.append(_pretty(entry, indent=inner, prefix=f"{json.dumps(key)}: "))
    else:
        opening, closing = "[]"
        entries = [_pretty(entry, indent=inner) for entry in value]
    pad = "\n" + " " * inner
    return f"{prefix}{opening}{pad}{f',{pad}'.join(entries)}\n{' ' * indent}{closing}"


def to_json_line(value: object) -> str:
    """Return a contract dataclass as one line of JSON, newline included; a loss may be NaN, as Python writes it."""
    data = msgspec.to_builtins(value)
    line = json.dumps(data)
    if r"\udc" in line:
        whole = json.dumps(data, ensure_ascii=False)
        line = json.dumps(json.loads(UNDECODED.sub(_decoded_in_json, whole)))
    return line + "\n"


def to_data(value: object) -> Any:
    """Return a contract dataclass as plain dicts, lists, strings and numbers, as json.loads would return it."""
    return _without_tuples(msgspec.to_builtins(value))


def _without_tuples(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_tuples(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_without_tuples(value) for value in node]
    return node


def plain_mapping(value: object, *, subject: str) -> dict[str, Any]:
    """Return a user's mapping as JSON would return it: sequences as lists, members of an enum as their values.

    Numbers and texts must be of Python's own types: subclasses such as numpy's scalars have several forms in JSON, or
    none.

    Args:
        value: Texts as keys; values are None, True, False, numbers, texts, and sequences and mappings of these.
        subject: Name of the mapping in messages.

    Raises:
        RecipeError: If a part of it has no such form; the message names its key.
    """
    if not isinstance(value, Mapping):
        raise RecipeError(f"{subject}={shown(value)} must be a mapping of plain data")
    return _plain_mapping(value, subject=subject, depth=1)


def _plain_mapping(value: Mapping[Any, Any], *, subject: str, depth: int) -> dict[str, Any]:
    plain = {}
    for key, each in value.items():
        if type(key) is not str:
            raise RecipeError(f"{subject}: key {shown(key)} must be a text, the only kind of key that JSON knows")
        name = readable_text(key)
        _check_text(name, subject=f"{subject}: key {key!r}")
        plain[name] = _plain(each, subject=f"{subject}[{key!r}]", depth=depth)
    return plain


def _plain(value: object, *, subject: str, depth: int) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if depth > _MAX_PLAIN_DEPTH:
        raise RecipeError(f"{subject} lies {depth} levels deep, at most {_MAX_PLAIN_DEPTH} are stored; make it flatter")
    if isinstance(value, Mapping):
        return _plain_mapping(value, subject=subject, depth=depth + 1)
    if isinstance(value, (list, tuple)):
        plain = []
        for at, each in enumerate(value):
            plain.append(_plain(each, subject=f"{subject}[{at}]", depth=depth + 1))
        return plain
    if type(value) is str:
        value = readable_text(value)
    _check_scalar(value, subject=subject)
    return value


def _check_scalar(value: object, *, subject: str) -> None:
    if type(value) is str:
        _check_text(value, subject=subject)
    elif type(value) is int:
        if not _MIN_INT <= value <= _MAX_INT:
            raise RecipeError(f"{subject} has more than 64 bits; give it as a text")
    elif type(value) is float:
        if not math.isfinite(value):
            raise RecipeError(f"{subject}={value} must be finite: it would equal nothing, or have no form in JSON")
    elif value is not None and type(value) is not bool:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise RecipeError(
            f"{subject}={shown(value)} is of type {kind}, which JSON has no form for; give a text, a number of "
            "Python's own, True, False, None, or lists and dicts of these"
        )


def _check_text(text: str, *, subject: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RecipeError(f"{subject}: {text!r} holds half a character, which no file can; leave it out") from None


def read_file(path: Path, *, error: type[NemoPerfError] = RecordError, unreadable_hint: str = "") -> bytes:
    """Return the content of a file.

    Args:
        path: The file; of pipes only those that a shell opened, as ``<(command)``, for another would be waited for.
        error: Raised type.
        unreadable_hint: Remedy for a file that is missing or can't be read.

    Raises:
        NemoPerfError: Of the given type, with the path, if it can't be read, is none, or is too large.
    """
    try:
        status = path.stat()
        is_opened = path.as_posix().startswith(_OPENED)
        if not is_opened and not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise error(f"{path}: is a pipe or a device, not a file; give a file")
        is_small = not is_opened and status.st_size <= _MAX_BYTES
        with path.open("rb") as file:
            text = file.read() if is_small else file.read(_MAX_BYTES + 1)  # which takes the memory for as many bytes
    except (OSError, ValueError) as exc:  # ValueError: a path that no file can have
        if isinstance(exc, NemoPerfError):
            raise
        message = f"{path}: cannot be read: {getattr(exc, 'strerror', None) or exc}"
        if unreadable_hint:
            message += f"; {unreadable_hint}"
        raise error(message) from exc
    if len(text) > _MAX_BYTES:
        raise error(f"{path}: larger than {_MAX_BYTES >> 20} MiB, twice what the results of 1,000 cases have")
    return text


def read_json(
    path: Path,
    *,
    error: type[NemoPerfError] = RecordError,
    unreadable_hint: str = "",
    corrupt_hint: str = "",
    is_finite: bool = False,
) -> Any:
    """Return the decoded JSON of a file; see parse_json.

    Args:
        path: The file.
        error: Raised type.
        unreadable_hint: Remedy for a file that is missing or can't be read.
        corrupt_hint: Remedy for a broken file that this package wrote; empty for files written by hand.
        is_finite: NaN and Infinity are refused: to_json never writes them, and nothing could store them again.

    Raises:
        NemoPerfError: Of the given type, with the path.
    """
    text = read_file(path, error=error, unreadable_hint=unreadable_hint)
    try:
        data = parse_json(text)
    except ValueError as exc:
        if line := _conflict_line(text):
            raise error(
                f"{path}: line {line} has a conflict marker that a merge left; take one side (git checkout --ours or "
                "--theirs, then git add), or record again what the file holds"
            ) from None
        message = f"{path}: {exc}"
        if corrupt_hint:
            damage = ", truncated or corrupt" if isinstance(exc.__cause__, ValueError) else ""
            message = f"{path}: {exc}{damage}; {corrupt_hint}"
        raise error(message) from None
    if is_finite and (b"NaN" in text or b"Infinity" in text):
        for place, value in non_finite(data):
            raise error(f"{path}: {place} is {json_text(value)}; it must be a finite number")
    return data


def parse_json(text: str | bytes) -> Any:
    """Return decoded JSON; NaN and Infinity are taken, as Python writes them.

    Raises:
        ValueError: If it is not JSON, is nested more than MAX_DEPTH levels deep, has a key twice in one object, an
            integer of more than 64 bits, a number that no float holds, or a text with half a character.
    """
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if _depth(raw) > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    numbers: dict[str, Any] = {}
    shapes = raw.translate(_SHAPES, delete=b"+")
    if any(shape in shapes for shape in _LONG_NUMBERS):  # the hooks take a third of the time
        numbers = {"parse_int": _parse_int, "parse_float": _parse_float}
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys, **numbers)
    except (json.JSONDecodeError, UnicodeDecodeError) as exc:
        raise ValueError(f"not JSON: {exc}") from exc
    if any(mark in raw for mark in _HALF_CHARACTER_MARKS) and _HALF_CHARACTER.search(raw):
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate)") from None
    return data


def _depth(raw: bytes) -> int:
    """Return the levels of nested lists and objects in a text, which need not be JSON."""
    depth = _bracket_depth(raw)
    if depth > MAX_DEPTH:
        depth = _bracket_depth(_STRING.sub(b"", raw))
    return depth


def _bracket_depth(raw: bytes) -> int:
    """Return the depth by brackets alone, also of those in texts."""
    depth = deepest = 0
    for bracket in raw.translate(None, delete=_NO_BRACKETS):
        depth += 1 if bracket in _OPENING else -1
        if depth > deepest:  # noqa: PLR1730 (max takes as long as all the rest)
            deepest = depth
    return deepest


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        key = counts.most_common(1)[0][0]
        raise ValueError(f"the key {shown(key)} is there twice in one object; drop one of them")
    return data


def _parse_int(digits: str) -> int:
    if len(digits) < _SAFE_DIGITS:
        return int(digits)
    if len(digits) > _MAX_DIGITS or not _MIN_INT <= int(digits) <= _MAX_INT:
        raise ValueError(f"the integer {shorten(digits)} has more than 64 bits")
    return int(digits)


def _parse_float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError(f"the number {shorten(digits)} is beyond what a float holds")
    return value


def _conflict_line(text: bytes) -> int:
    """Return the line of git's first conflict marker, from 1; 0 without one."""
    marker = _CONFLICT_MARKER.search(text, 0, _MAX_MERGED_BYTES)
    if marker is None:
        return 0
    return text.count(b"\n", 0, marker.start()) + 1


def is_there(path: Path, *, error: type[NemoPerfError]) -> bool:
    """Whether a file exists.

    Raises:
        NemoPerfError: Of the given type, if a folder on the way can't be entered.
    """
    try:
        return path.exists()
    except OSError as exc:
        raise error(f"{path}: cannot be read: {exc.strerror}") from exc


def from_data(
    kind: type[T], data: object, *, subject: str = "", error: type[NemoPerfError] = RecordError, root: str = "$"
) -> T:
    """Build a contract dataclass from plain data; unknown keys are ignored (the schema names them).

    Args:
        kind: The dataclass.
        data: Decoded JSON.
        subject: Name of the data in messages, e.g. a path; empty for none.
        error: Raised type.
        root: JSON path of the data, for messages.

    Raises:
        NemoPerfError: Of the given type, with the JSON path at fault.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as exc:
        problem = explain(str(exc), data=data, root=root)
        raise error(f"{subject}: {problem}" if subject else problem) from None


def read_data(kind: type[T], path: Path, *, error: type[NemoPerfError] = RecordError) -> T:
    """Build a contract dataclass from a JSON file; see read_json and from_data."""
    return from_data(kind, read_json(path, error=error, is_finite=True), subject=str(path), error=error)


def from_json(kind: type[T], text: str | bytes, *, subject: str, error: type[NemoPerfError] = RecordError) -> T:
    """Build a contract dataclass from JSON text; see from_data."""
    try:
        data = parse_json(text)
    except ValueError as exc:
        raise error(f"{subject}: {exc}") from None
    return from_data(kind, data, subject=subject, error=error)
