"""Target of options: texts of the command line, ini files and markers, each for its parser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

from pytest_nemoperf.options import parse as options
from pytest_nemoperf.options.selection import asks_for_perf_alone
from pytest_nemoperf.recipes.overrides import change_recipe, parse_changes
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.row_selection import parse_condition
from pytest_nemoperf.verdict.policy import parse_tolerances
from pytest_nemoperf.verdict.waivers import parse_waiver
from tests.builders import make_recipe
from tests.fuzz import mutate
from tests.fuzz.target import Target


def _changed(text: str) -> object:
    changes = parse_changes([text], subject="--perf-set")
    return change_recipe(make_recipe(), system=find_system("cpu"), changes=changes)


_OPTIONS: Final[Sequence[tuple[str, Callable[[str], object]]]] = (
    ("tp=2,seq_len=128,precision=bf16,sequence_parallel=true", _changed),
    ("5%", lambda text: parse_tolerances([text], subject="--perf-tolerance")),
    ("peak_memory_gib=10", lambda text: parse_tolerances([text], subject="--perf-find")),
    ("regressed,invalid", options.parse_fail_on),
    ("3", lambda text: options.parse_count(text, subject="--perf-runs")),
    ("0.005", lambda text: options.parse_probability(text, subject="--perf-alpha")),
    ("on", lambda text: options.parse_on_off(text, subject="--perf-health")),
    ("5%", lambda text: options.parse_percent(text, subject="--perf-find")),
    ("600", lambda text: options.parse_seconds(text, subject="--perf-timeout")),
    ("torch,megatron", lambda text: options.parse_frameworks(text, subject="--perf-framework")),
    ("nemo_rl=/usr/bin/python3", lambda text: options.parse_pythons([text], subject="--perf-python")),
    ("model=llama3,gpus>=8", lambda text: parse_condition(text, subject="--where")),
    ("perf and not slow", asks_for_perf_alone),
    ("2999-12-31", lambda text: parse_waiver({"reason": text, "until": text, "floor": 50}, subject="perf_waive")),
    ("50", lambda text: parse_waiver({"reason": "x", "until": "1.4", "floor": text}, subject="perf_waive")),
)


def option_text(root: Path) -> Target:
    """Options, one of each input: its number is the input's first line."""
    path = root / "option"
    seeds = [f"{at}\n{text}".encode() for at, (text, _) in enumerate(_OPTIONS)]

    def change(raw: bytes, random: Random) -> bytes:
        number, _, text = raw.partition(b"\n")
        return number + b"\n" + mutate.mutated_text(text, random=random, hostile=mutate.WORDS)

    def read() -> object:
        number, _, text = path.read_bytes().decode(errors="surrogateescape").partition("\n")
        return _OPTIONS[int(number)][1](text)

    return Target(path=path, seeds=seeds, mutate=change, read=read)
