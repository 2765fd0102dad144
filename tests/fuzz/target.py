"""One reader to be fuzzed: its real files, how they are changed, and everything that goes on from what it reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from random import Random

from pytest_nemoperf.cli.main import main

Use = Callable[[], object]
Mutate = Callable[[bytes, Random], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A reader with its files.

    Attributes:
        path: File that the reader reads, which each input replaces.
        seeds: Real contents of it.
        mutate: Returns a changed content.
        read: Calls the reader alone; None where only uses do.
        uses: What goes on from a content that is read; one is taken an input, in turn.
    """

    path: Path
    seeds: Sequence[bytes]
    mutate: Mutate
    read: Use | None = None
    uses: Sequence[Use] = field(default=())

    def content(self, random: Random) -> bytes:
        """Return an input."""
        return self.mutate(random.choice(self.seeds), random)

    def run(self, content: bytes, *, turn: int) -> str:
        """Read an input and use it; return what was printed.

        Raises:
            NemoPerfError: As the reader and its uses do.
        """
        self.path.write_bytes(content)
        printed = StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            if self.read is not None:
                self.read()
            if self.uses:
                self.uses[turn % len(self.uses)]()
        return printed.getvalue()


def command(*words: object) -> Use:
    """Return a use that runs the command line in this process."""
    texts = [str(word) for word in words]

    def run() -> object:
        try:
            return main(texts)
        except SystemExit as exc:  # argparse ends so
            return exc.code

    return run
