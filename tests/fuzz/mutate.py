"""Mutations of real files: of trees of JSON, of text, and of bytes; the same random numbers give the same input."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

ESCAPES: Final = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31m",
    "\x9b1A\x85",
    "\u202eabc\u2066",
    "a\rb\x00\x07",
    "\u200b\ufeff\U000e0041",
)
"""Texts that a terminal obeys, or that show something else than they say."""
_TEXTS: Final = (
    "",
    " ",
    "a" * 5000,
    "../../etc",
    "/dev/null",
    "a\nb",
    "</testcase>]]>&<script>",
    "| --- |",
    "=1+1",
    "{tp}%s${x}",
    "nan",
    "\uff11\uff12",
    "\ud800",
    "2999-13-45",
    "1e999",
    "[bold]x[/]",
    *ESCAPES,
)
_NUMBERS: Final = (
    *(0, 1, -1, 2, 3, 7, 63, 64, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(10**30)),
    *(0.0, -0.0, 0.5, 1.5, 1e-300, 5e-324, 1e15, 1e19, 1e308, -1e308, math.nan, math.inf, -math.inf),
)
_OTHERS: Final[Sequence[Any]] = (None, True, False, [], {}, [[]], [None], {"a": {}}, {"": 1}, [1, "a"])
_VALUES: Final = (*_TEXTS, *_NUMBERS, *_OTHERS)
"""Any of these in place of a value; copied, as a later change may be of what is in it."""
_NUM_CHANGES: Final = (1, 1, 1, 2, 3)
_TEXT_SHARE: Final = 0.08
_MAX_BYTES: Final = 1 << 20
_DEEP: Final = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """Pieces that a format of its own kind stumbles over.

    Attributes:
        pieces: Put in place of a word or a number, or between lines.
    """

    pieces: Sequence[str] = ()


def mutated_json(seed: bytes, *, random: Random) -> bytes:
    """Return JSON with one to three changes of its tree, of its text, or of both."""
    if random.random() < _TEXT_SHARE:
        return mutated_text(seed, random=random, hostile=JSON)
    tree = json.loads(seed)
    for _ in range(random.choice(_NUM_CHANGES)):
        tree = _changed(tree, random=random)
    text = _json_text(tree, random=random)
    if random.random() < _TEXT_SHARE:
        return mutated_text(text.encode(errors="surrogatepass"), random=random, hostile=JSON)
    return text.encode(errors="surrogatepass")


def _json_text(tree: Any, *, random: Random) -> str:
    text = json.dumps(tree, ensure_ascii=random.random() < 0.5, indent=2 if random.random() < 0.1 else None)
    if random.random() < 0.03 and text.startswith("{"):
        return f'{{"case": 1, "case": 2, {text[1:]}'
    return text


def mutated_jsonl(seed: bytes, *, random: Random) -> bytes:
    """Return lines of JSON of which one is changed, is gone, is there twice, or stands elsewhere."""
    lines = seed.splitlines()
    at = random.randrange(len(lines))
    match random.randrange(8):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, random.choice(lines))
        case 2:
            random.shuffle(lines)
        case 3:
            lines = lines[:at]
        case _:
            lines[at] = mutated_json(lines[at], random=random)
    text = b"\n".join(lines) + b"\n"
    return mutated_text(text, random=random, hostile=JSON) if random.random() < 0.1 else text


def _changed(tree: Any, *, random: Random) -> Any:
    places = list(_places(tree))
    if not places:
        return _value(random, old=tree)
    node, key = random.choice(places)
    match random.randrange(12):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[random.choice((*_TEXTS, f"{key}s", str(key).upper()))] = node.pop(key)
        case 2:
            other, other_key = random.choice(places)
            node[key] = copy.deepcopy(other[other_key])
        case 3:
            node[key] = [node[key]] * random.choice((1, 2, 100))
        case 4:
            node[key] = {str(key): node[key]}
        case 5:
            node[key] = _nested(node[key], depth=random.choice((5, 70, 100)))
        case 6 if isinstance(node[key], list) and node[key]:
            node[key] = (node[key] * random.choice((2, 50)))[:1000]
        case 7:
            return copy.deepcopy(random.choice(_OTHERS)) if random.random() < 0.05 else tree
        case _:
            node[key] = _value(random, old=node[key])
    return tree


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container with each of its keys or indices."""
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for key, value in items:
        yield node, key
        yield from _places(value)


def _nested(value: Any, *, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _value(random: Random, *, old: Any) -> Any:
    """Return another value, mostly of the type of the old one."""
    kind = random.random()
    if isinstance(old, str) and kind < 0.6:
        at = random.randint(0, len(old))
        piece = random.choice(_TEXTS)
        return random.choice((piece, old[:at] + piece + old[at:], old[:at], old.upper(), old * 50))
    if isinstance(old, (int, float)) and not isinstance(old, bool) and kind < 0.6:
        return random.choice((*_NUMBERS, old + 1, old - 1, -old, old * 10, old * 10**6, float(old), str(old)))
    return copy.deepcopy(random.choice(_VALUES))


JSON: Final = Hostile(pieces=("[" * _DEEP, '{"a":' * _DEEP, "NaN", "-Infinity", "1" * 5000, '"\\ud800"', "\x00", "//"))


def mutated_text(seed: bytes, *, random: Random, hostile: Hostile) -> bytes:
    """Return text with one to three changes of words, lines or bytes."""
    raw = seed
    for _ in range(random.choice(_NUM_CHANGES)):
        raw = random.choice(_CHANGES)(raw, random, hostile)[:_MAX_BYTES]
    return raw


def _piece(random: Random, hostile: Hostile) -> bytes:
    pieces: list[Any] = [*_TEXTS, *_NUMBERS]
    if hostile.pieces and random.random() < 0.6:
        pieces = [*hostile.pieces]
    return str(random.choice(pieces)).encode(errors="surrogatepass")


def _word(raw: bytes, random: Random, hostile: Hostile) -> bytes:
    """Replace a word or number, blanks and punctuation around it kept."""
    if not raw:
        return _piece(random, hostile)
    start = end = random.randrange(len(raw))
    while start > 0 and _is_of_word(raw[start - 1]):
        start -= 1
    while end < len(raw) and _is_of_word(raw[end]):
        end += 1
    return raw[:start] + _piece(random, hostile) + raw[max(end, start) :]


def _is_of_word(byte: int) -> bool:
    return chr(byte).isalnum() or byte in b"._-+"


def _insert(raw: bytes, random: Random, hostile: Hostile) -> bytes:
    at = random.randint(0, len(raw))
    return raw[:at] + _piece(random, hostile) + raw[at:]


def _insert_line(raw: bytes, random: Random, hostile: Hostile) -> bytes:
    lines = raw.split(b"\n")
    lines.insert(random.randint(0, len(lines)), _piece(random, hostile))
    return b"\n".join(lines)


def _drop_line(raw: bytes, random: Random, _: Hostile) -> bytes:
    lines = raw.split(b"\n")
    del lines[random.randrange(len(lines))]
    return b"\n".join(lines)


def _repeat_line(raw: bytes, random: Random, _: Hostile) -> bytes:
    lines = raw.split(b"\n")
    at = random.randrange(len(lines))
    lines[at:at] = [random.choice(lines)] * random.choice((1, 2, 20))
    return b"\n".join(lines)


def _repeat_piece(raw: bytes, random: Random, _: Hostile) -> bytes:
    """Repeat some bytes many times, which backtracking patterns are slow at."""
    if not raw:
        return raw
    start = random.randrange(len(raw))
    piece = raw[start : start + random.choice((1, 2, 5, 20))]
    return raw[:start] + piece * random.choice((3, 100, 2000)) + raw[start:]


def _flip(raw: bytes, random: Random, _: Hostile) -> bytes:
    if not raw:
        return raw
    at = random.randrange(len(raw))
    return raw[:at] + bytes([random.randrange(256)]) + raw[at + 1 :]


def _cut(raw: bytes, random: Random, _: Hostile) -> bytes:
    return raw[: random.randint(0, len(raw))]


def _mark(raw: bytes, random: Random, _: Hostile) -> bytes:
    """Put in what an editor, a merge or another system puts in."""
    begin = random.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"<<<<<<< HEAD\n", b"\x1f\x8b", b"\x00"))
    return random.choice((begin + raw, raw.replace(b"\n", b"\r\n"), raw.replace(b"\n", b"\r"), raw + raw))


_CHANGES: Final[Sequence[Callable[[bytes, Random, Hostile], bytes]]] = (
    _word,
    _word,
    _word,
    _insert,
    _insert_line,
    _drop_line,
    _repeat_line,
    _repeat_piece,
    _flip,
    _cut,
    _mark,
)

YAML: Final = Hostile(
    pieces=(
        *(
            "&a [*a, *a]",
            "!!python/object/apply:os.system [true]",
            "!!binary AAAA",
            "!x y",
            "? [1]",
            "*b",
            "---",
            "...",
        ),
        *("<<: {a: 1}", "1e400", "0x" + "f" * 400, "1:30:00", "2026-13-45", "2026-11-30", ".nan", "~", "[" * 5000),
        "\n".join(
            [
                "a: &a [x, x, x, x, x, x, x, x, x]",
                *(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]" for n in range(9)),
            ]
        ),
        *("${oc.env:HOME}", "${mul:${a},2}", "${a}", "${policy}", "${div:1,0}", "${mul:aaaaaaaa,9999999999}", "${"),
        *('{"a": ' * 2000, "1" * 5000, "defaults: [x.yaml]", "defaults: recipe.yaml", "- a", "x: y: z", "\t"),
    )
)
PYTHON: Final = Hostile(
    pieces=(
        *("10**10**10", "'a'*10**10", "[0]*10**10", "range(10**12)", "list(range(10**10))", "sum(range(10**10))"),
        *("2**-10**10", "'%99999999999d' % 1", "'{:>9999999999}'.format(1)", "(1,)*10**10", "max(range(10**11))"),
        *("-" * 3000 + "1", "(" * 500 + ")" * 500, "a" + ".b" * 3000, "1" + "+1" * 3000, "not " * 3000 + "1"),
        *("tiny_pretrain_config()", "base_config()", "cfg.model", "cfg", "1/0", "[][0]", "{}['a']", "lambda: 0"),
        *("cfg.model = cfg", "cfg.cfg = cfg", "x = []\n    x.append(x)\n    cfg.x = x", "'a'.replace('', 'b'*10**6)"),
        *(
            "sorted([1, 'a'])",
            "{**cfg}",
            "f'{cfg}'",
            "cfg[0]",
            "*cfg",
            "None",
            "for x in range(10**9): pass",
            "await x",
        ),
        *("9" * 5000, "1e999", "-1", "0", "1 if x else 2", "'\x1b[31m'", "while True: pass", "raise ValueError"),
    )
)
PAGE: Final = Hostile(
    pieces=(
        *("<!-- nemoperf:begin tables -->", "<!-- nemoperf:end -->", "<!-- nemoperf:begin native systems=cpu -->"),
        *("<!-- nemoperf:begin", "systems=", "systems=cpu,cpu", "frameworks=x", "where=x", "'", '"', "a=b", "\\"),
        *(
            "<!-- nemoperf:" + " " * 3000,
            "```",
            "~~~~",
            "`" * 3000,
            "| a | b |",
            "|" * 3000,
            "<!--" * 500,
            "workload=rl",
        ),
    )
)
LOG: Final = Hostile(
    pieces=(
        *("1" * 400, "1e999", "nan", "inf", "-inf", "1,234,567.8", "1.234,5", "1_000", "٣", "0x1", "1e-400", "-0"),
        *("[rank3]: ", "[1,0]<stdout>: ", " 3: ", "(W pid=1) ", "\x1b[A", "\r", "\x1b]0;x", "\x1b[31m", "{" * 3000),
        *("{'a': " * 300, '{"a":' * 300, "CUDA out of memory. Tried to allocate 1 GiB", "2026-99-99 00:00:00", "\x85"),
        *("iteration", "step", " " * 5000, "9" * 5000, "1," * 3000, "." * 3000, "-" * 3000, "\ufeff", "{'a': nan}"),
        *('{"step": 1, "step": 2}', '{"step": 1e400}', "{'step': 1, 'loss': 'nan'}", "{'b': {1: 2}}", "{'c': 1j}"),
    )
)
INI: Final = Hostile(
    pieces=(
        *("[pytest]", "[tool.pytest.ini_options]", "[tool]", "[[tool]]", "tool = 1", "pytest = 1", "[pytest", "= 1"),
        *("%(x)s", "${x}", "a.b.c = 1", "x = [" * 500, "perf_python =\n  nemo_rl=/x\n  nemo_rl=/y", "1979-05-27"),
        *("x = " + "[" * 3000, "x = {" * 3000, "[" + "a." * 3000 + "b]", "x = 1\nx = 2", "x = " + "9" * 5000),
    )
)
WORDS: Final = Hostile(
    pieces=(
        *("=", "==", ",", ":", "all", "nan", "inf", "-1", "1e999", "0", "9" * 5000, "٣", "²", "%", "None", "null"),
        *(
            "tp=2",
            "layout.tp",
            "seq_len=1e400",
            "model=[",
            "{",
            "a.b.c=1",
            "tokens_per_sec_per_gpu=5",
            "x",
            "1_0",
            "[" * 3000,
        ),
    )
)
