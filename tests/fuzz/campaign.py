"""Fuzzing of targets: inputs by number, the rules that each must keep, and what was found."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import process_time
from types import FrameType
from typing import Any, Final

from pytest_nemoperf.errors import NemoPerfError
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

_LIMIT_SEC: Final = 1.0
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (files of a Linux machine that are on no disk)
_RAW: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that a terminal obeys or hides; a line break and a tab are none."""


class _TooSlowError(BaseException):
    """Raised inside an input that takes too long; no reader catches it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An input that breaks a rule.

    Attributes:
        target: Name of its target.
        number: Number of the input.
        kind: What it did: an exception and its place, a raw character, or seconds.
        detail: Traceback or text.
    """

    target: str
    number: int
    kind: str
    detail: str


@contextmanager
def opened(name: str) -> Iterator[Target]:
    """Set a target up in a folder of its own, which is also the working directory; see warm_up for imports."""
    folder = Path(tempfile.mkdtemp(prefix="nemoperf-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))
    before = Path.cwd()
    try:
        os.chdir(folder)
        yield TARGETS[name](folder)
    finally:
        os.chdir(before)
        shutil.rmtree(folder)


def warm_up(target: Target) -> None:
    """Use the real file in each way, so that imports are not counted into the first inputs."""
    target.run_all(target.seeds[0])
    gc.collect()
    gc.freeze()  # modules stay: the collector need not look at them after each few inputs


def content_of(target: Target, *, name: str, number: int) -> bytes:
    """Return the input of a number."""
    return target.content(Random(f"{name}:{number}"))  # noqa: S311 (the same input every time)


def try_input(target: Target, *, name: str, number: int, has_limit: bool) -> tuple[Fault | None, float]:
    """Give a target an input; return what it broke and the seconds of this process that it took.

    Args:
        target: From opened.
        name: Its name.
        number: Number of the input.
        has_limit: Whether more than a second is a fault; a machine that tests share may be slow.
    """
    content = content_of(target, name=name, number=number)
    if has_limit:
        signal.setitimer(signal.ITIMER_VIRTUAL, 5 * _LIMIT_SEC)
    start = process_time()
    kind = detail = ""
    try:
        printed = target.run(content, turn=number)
    except NemoPerfError:
        printed = ""
    except _TooSlowError:
        printed, kind, detail = "", "slow", traceback.format_exc()
    except BaseException as exc:
        if isinstance(exc, KeyboardInterrupt):
            raise
        printed, kind, detail = "", f"{type(exc).__name__} in {_place(exc)}", traceback.format_exc()
    finally:
        seconds = process_time() - start
        if has_limit:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    raw = _RAW.search(printed)
    if not kind and raw is not None:
        around = printed[max(0, raw.start() - 60) : raw.end() + 60]
        kind, detail = f"raw character U+{ord(raw[0]):04X} after {around[:20]!r}", repr(around)
    if not kind and has_limit and seconds > _LIMIT_SEC:
        kind = "slow"
        detail = f"{seconds:.1f} s"
    fault = Fault(target=name, number=number, kind=kind, detail=detail) if kind else None
    return fault, seconds


def set_alarm() -> None:
    """Let inputs that take too long end by an exception."""

    def ring(_signal: int, _frame: FrameType | None) -> Any:
        raise _TooSlowError

    signal.signal(signal.SIGVTALRM, ring)


def _place(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)
    own = [frame for frame in frames if "pytest_nemoperf" in frame.filename]
    last = (own or frames)[-1]
    return f"{Path(last.filename).name}:{last.name}"
