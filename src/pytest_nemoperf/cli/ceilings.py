"""``nemoperf ceilings``: measured rates of kernels and collectives, and stored cases beside them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import list_baselines, read_baseline
from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.terminal import write, write_error
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.options.declare import STATE_DIR
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.ceilings import ceiling_lines, product_lines
from pytest_nemoperf.results.ceilings import Ceiling, OfProducts, ceiling_of, share_of_products

_EPILOG = """\
Rates are those of the stored baselines of perf tests that state their kernel,
and of perf.collective: committed ones, and this checkout's own in .nemoperf.

exit code:
  0 if the baselines were read, also if none of them is a ceiling
  2 if the system is unknown, or a file can't be trusted
"""
_COUNTS = ("gpus", "topology")
"""Keys of a machine that its kernels don't depend on."""


@dataclass(slots=True, kw_only=True)
class _Machine:
    """Stored ceilings and other baselines of one machine."""

    ceilings: list[Ceiling] = field(default_factory=list)
    baselines: list[Baseline] = field(default_factory=list)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its sources and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("system", metavar="SYSTEM", help="system, e.g. h100 or cpu")
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="folder of baselines (default: baselines)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the ceilings of each machine of a system; return the exit code.

    Raises:
        RecipeError: If the catalog has no such system.
        BaselineError: If a committed baseline can't be trusted.
    """
    system = find_system(arguments.system).name
    machines = _machines(system, folder=baselines_dir(arguments.baselines))
    machines = {key: machine for key, machine in machines.items() if machine.ceilings}
    if arguments.json:
        write(f"{json.dumps([_data(key, machine=machine) for key, machine in machines.items()], indent=2)}\n")
    else:
        for key, machine in machines.items():
            write(_text(key, machine=machine))
    if not machines:
        write_error(
            f"no ceiling is stored of {system}: pytest -m perf --system={system} -k 'test_kernels or "
            "test_collectives' records them (docs/ceilings.md)"
        )
    return 0


def _machines(system: str, *, folder: Path) -> dict[str, _Machine]:
    """Return each machine with its ceilings, by name; a committed case counts as committed."""
    machines: dict[str, _Machine] = {}
    seen: set[tuple[str, str]] = set()
    for path, baseline in _stored(system, folder=folder):
        key = _name_of(baseline.machine)
        if (key, baseline.case) in seen:
            continue
        seen.add((key, baseline.case))
        machine = machines.setdefault(key, _Machine())
        ceiling = ceiling_of(baseline, source=str(path))
        if ceiling is None:
            machine.baselines.append(baseline)
        else:
            machine.ceilings.append(ceiling)
    return machines


def _stored(system: str, *, folder: Path) -> Iterable[tuple[Path, Baseline]]:
    """Yield committed baselines, then local ones; a local one that can't be read is left out."""
    for path in list_baselines(folder, system=system):
        yield path, read_baseline(path)
    for root in sorted(Path(STATE_DIR, "baselines").glob("*")):
        for path in list_baselines(root, system=system):
            with suppress(BaselineError):
                yield path, read_baseline(path)


def _name_of(machine: Mapping[str, str | int]) -> str:
    parts = [f"{key}={value}" for key, value in sorted(machine.items()) if key not in _COUNTS]
    return ", ".join(parts) or "unknown machine"


def _shares(machine: _Machine) -> Sequence[OfProducts]:
    shares = []
    for baseline in machine.baselines:
        share = share_of_products(baseline, ceilings=machine.ceilings)
        if share is not None:
            shares.append(share)
    return shares


def _data(key: str, *, machine: _Machine) -> dict[str, Any]:
    return {
        "machine": key,
        "ceilings": [asdict(each) for each in machine.ceilings],
        "cases": [asdict(each) for each in _shares(machine)],
    }


def _text(key: str, *, machine: _Machine) -> str:
    lines = [key, *ceiling_lines(machine.ceilings)]
    shares = _shares(machine)
    if shares:
        lines += ["", *product_lines(shares)]
    return "\n".join(lines) + "\n\n"
