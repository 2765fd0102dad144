"""Makes a trace of launches out of the runs that a perf session left behind, for error rates over real noise.

Record one after the other on a machine that does nothing else, for example with
``pytest -m perf --system=cpu --perf-runs=60 perf_tests -k single``, then
``python benchmarks/verdicts/condense.py .nemoperf/runs/<session>/<case> FILE``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DIGITS = 5


def main() -> None:
    """Read every launch of a case in order and write one file."""
    parser = argparse.ArgumentParser(description="step times of a case's launches, in order")
    parser.add_argument("case_dir", type=Path, help="folder of a case, with run-1, run-2 ... in it")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--note", default="", help="what else ran, what kind of machine")
    arguments = parser.parse_args()
    folders = sorted(arguments.case_dir.glob("run-*"), key=_order)
    launches = [_step_times(folder / "steps.jsonl") for folder in folders if (folder / "steps.jsonl").exists()]
    plan = json.loads((folders[0] / "plan.json").read_text(encoding="utf-8"))
    result = json.loads((folders[0] / "result.json").read_text(encoding="utf-8"))
    arguments.out.write_text(
        _render(plan, environment=result["environment"], launches=launches, note=arguments.note), encoding="utf-8"
    )


def _order(folder: Path) -> tuple[int, str]:
    """A launch that did not settle was made again; its name has a letter more."""
    name = folder.name.removeprefix("run-")
    number = name.rstrip("b")
    return int(number), name[len(number) :]


def _step_times(path: Path) -> list[float]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [float(f"{record['step_time_sec']:.{_DIGITS}g}") for record in records]


def _render(plan: Mapping[str, Any], *, environment: Mapping[str, str], launches: list[list[float]], note: str) -> str:
    """One launch a line, so that the file can be read."""
    head = {
        "case": plan["case"],
        "environment": dict(environment),
        "note": note,
        "num_warmup": plan["warmup_steps"],
    }
    lines = ",\n".join(f"    {json.dumps(launch)}" for launch in launches)
    return f'{json.dumps(head, indent=2)[:-2]},\n  "launches": [\n{lines}\n  ]\n}}\n'


if __name__ == "__main__":
    main()
