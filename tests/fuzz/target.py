"""One reader to be fuzzed: its real files, how they are changed, and everything that goes on from what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from pytest_nemoperf.cli.main import main
from pytest_nemoperf.errors import NemoPerfError

Use = Callable[[], object]
Check = Callable[[Any], object]
Mutate = Callable[[bytes, Random], bytes]

_REFUSED_PERIOD: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A reader with its files.

    Attributes:
        path: File that the reader reads, which each input replaces.
        seeds: Real contents of it.
        mutate: Returns a changed content.
        read: Calls the reader; every input is given to it.
        checks: What goes on from the value that was read, of every input that is not refused; texts that they return
            are looked at as if printed.
        uses: Commands from the file to the terminal. They parse options, read other files and draw tables, so one in
            ``period`` inputs that are read has one of them, in turn, and one in a hundred that are refused.
        period: Number of inputs that are read for one with a use.
    """

    path: Path
    seeds: Sequence[bytes]
    mutate: Mutate
    read: Use
    checks: Sequence[Check] = field(default=())
    uses: Sequence[Use] = field(default=())
    period: int = 20

    def content(self, random: Random) -> bytes:
        """Return an input."""
        return self.mutate(random.choice(self.seeds), random)

    def run(self, content: bytes, *, turn: int) -> str:
        """Read an input and use it; return what was printed.

        Raises:
            NemoPerfError: As a use does.
        """
        self.path.write_bytes(content)
        printed = StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            period = self._read(printed)
            if self.uses and turn % period == 0:
                self.uses[turn // period % len(self.uses)]()
        return printed.getvalue()

    def run_all(self, content: bytes) -> str:
        """Read a content and make all uses of it; return what was printed."""
        self.path.write_bytes(content)
        printed = StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            self._read(printed)
            for use in self.uses:
                use()
        return printed.getvalue()

    def _read(self, printed: StringIO) -> int:
        """Read the file and check what was read; return the number of inputs for one with a use."""
        try:
            value = self.read()
        except NemoPerfError:  # commands escape it, and pytest's reports do
            return _REFUSED_PERIOD
        except pytest.UsageError as exc:
            printed.write(str(exc))
            return _REFUSED_PERIOD
        for check in self.checks:
            try:
                found = check(value)
            except NemoPerfError:
                return self.period
            if isinstance(found, str):
                printed.write(found)
        return self.period


def command(*words: object) -> Use:
    """Return a use that runs the command line in this process."""
    texts = [str(word) for word in words]

    def run() -> object:
        try:
            return main(texts)
        except SystemExit as exc:  # argparse ends so
            return exc.code

    return run
