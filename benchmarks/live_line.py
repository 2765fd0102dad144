"""Bytes that a session writes to a terminal: the live line, and all the rest.

Twelve cases whose trainer sleeps, in a pseudo-terminal, so that the time of a session hardly depends on the machine.
Verdicts do not matter here. Run: ``python benchmarks/live_line.py [--columns 80] [-- OPTIONS OF PYTEST]``; with
``--suite FOLDER`` the tests of a folder are run on this machine's processor instead.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from dataclasses import dataclass
from pathlib import Path

from tables import machine_line

_NUM_CASES = 12
_STEP_SEC = 0.25
_TRAINER = f"""
import json, os, time
plan = json.load(open(os.environ["NEMOPERF_PLAN"]))
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        time.sleep({_STEP_SEC})
        record = {{"step": step, "step_time_sec": {_STEP_SEC}, "tokens": plan["tokens_per_step"], "loss": 6.5}}
        print(json.dumps(record), file=file, flush=True)
"""
_TESTS = """
import pathlib, sys
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
@pytest.mark.parametrize("sequences", range(1, {num_cases} + 1))
def test_pretraining(perf, sequences):
    perf.check(Recipe(
        model="llama-tiny", layouts={{"cpu": Layout(gpus=1)}}, seq_len=64, precision="fp32",
        global_batch_size=sequences,
        framework="command",
        command=(sys.executable, str(pathlib.Path(__file__).with_name("trainer.py"))),
    ))
"""
_INI = "[pytest]\nperf_runs = 1\nperf_budget = 0\nperf_yardstick = off\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Output of a session.

    Attributes:
        text: All of it.
        num_writes: Blocks of it that arrived one after another.
        took_sec: Duration of the session.
    """

    text: bytes
    num_writes: int
    took_sec: float

    @property
    def num_overwritten(self) -> int:
        """Bytes of what later characters of the same line replace: the live line."""
        overwritten = 0
        for line in self.text.replace(b"\r\n", b"\n").split(b"\n"):
            overwritten += line.rfind(b"\r") + 1
        return overwritten


def main() -> None:
    """Run a session in a pseudo-terminal and print the bytes it wrote."""
    parser = argparse.ArgumentParser(description="bytes of the live line")
    parser.add_argument("--columns", type=int, default=80, help="width of the terminal (default 80)")
    parser.add_argument("--suite", type=Path, help="folder with perf tests to run instead")
    parser.add_argument("--show", action="store_true", help="print what the session wrote, too")
    parser.add_argument("options", nargs="*", help="options of pytest")
    args = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-m", "perf", "--system=cpu", *args.options]
    if args.suite is not None:
        written = _run([*command, str(args.suite)], folder=Path.cwd(), columns=args.columns)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "pytest.ini").write_text(_INI)
            (folder / "trainer.py").write_text(_TRAINER)
            (folder / "test_pretraining.py").write_text(_TESTS.format(num_cases=_NUM_CASES))
            written = _run(command, folder=folder, columns=args.columns)
    if args.show:
        print(written.text.decode(errors="replace"))
    print(f"{machine_line()}\n")
    print("| columns | session | bytes written | of these overwritten | blocks |")
    print("|---:|---:|---:|---:|---:|")
    print(
        f"| {args.columns} | {written.took_sec:.0f} s | {len(written.text):,} | {written.num_overwritten:,} "
        f"| {written.num_writes:,} |"
    )


def _run(command: list[str], *, folder: Path, columns: int) -> Written:
    """Run a command in a pseudo-terminal of so many columns and 24 rows."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    started = time.monotonic()
    with subprocess.Popen(command, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs):
        os.close(theirs)
        blocks = []
        while block := _read(ours):
            blocks.append(block)
    os.close(ours)
    return Written(text=b"".join(blocks), num_writes=len(blocks), took_sec=time.monotonic() - started)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 2**16)
    except OSError:  # the command has ended: no process has the other side open
        return b""


if __name__ == "__main__":
    main()
