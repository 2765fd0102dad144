"""Makes a trace of the runs that a perf session left behind, or of recorded sessions, for error rates over real noise.

Record one after the other on a machine that does nothing else, for example with
``pytest -m perf --system=cpu --perf-runs=60 perf_tests -k single``, then
``python benchmarks/verdicts/condense.py .nemoperf/runs/<session>/<case> FILE``. A file of record_sessions.py instead of
the folder becomes one with fewer digits, the yardsticks of a launch averaged over its ranks.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_DIGITS = 5
_SESSION_DIGITS = 4


def main() -> None:
    """Read every launch of a case in order and write one file."""
    parser = argparse.ArgumentParser(description="step times of a case's launches, in order")
    parser.add_argument("source", type=Path, help="folder of a case, with run-1, run-2 ... in it, or a file")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--note", default="", help="what else ran, what kind of machine")
    arguments = parser.parse_args()
    if arguments.source.is_file():
        arguments.out.write_text(_condensed_sessions(arguments.source, note=arguments.note), encoding="utf-8")
        return
    folders = sorted(arguments.source.glob("run-*"), key=_order)
    launches = [_step_times(folder / "steps.jsonl") for folder in folders if (folder / "steps.jsonl").exists()]
    plan = json.loads((folders[0] / "plan.json").read_text(encoding="utf-8"))
    result = json.loads((folders[0] / "result.json").read_text(encoding="utf-8"))
    arguments.out.write_text(
        _render(plan, environment=result["environment"], launches=launches, note=arguments.note), encoding="utf-8"
    )


def _condensed_sessions(path: Path, *, note: str) -> str:
    """Return recorded sessions with what their verdicts rest on, one session a line."""
    data = json.loads(path.read_text(encoding="utf-8"))
    lines = []
    for session in data.pop("sessions"):
        launches = []
        for launch in session["launches"]:
            short = {"steps": _shortened(launch["steps"])}
            for when in ("before", "after"):
                short[when] = _mean_yardsticks(launch[when])
            launches.append(short)
        rounds = []
        for each in session["rounds"]:
            rounds.append({**each, "old": _shortened(each["old"]), "new": _shortened(each["new"])})
        kept = {"time": session["time"], "load": round(session["load"], 2), "launches": launches, "rounds": rounds}
        lines.append(f"    {json.dumps(kept, separators=(',', ':'))}")
    head = json.dumps({**data, "note": note}, indent=2)
    joined = ",\n".join(lines)
    return f'{head[:-2]},\n  "sessions": [\n{joined}\n  ]\n}}\n'


def _shortened(times: Sequence[float]) -> list[float]:
    return [float(f"{time:.{_SESSION_DIGITS}g}") for time in times]


def _mean_yardsticks(ranks: Sequence[Mapping[str, float | None]]) -> list[float]:
    """Return the mean times of the ranks' yardsticks: a matrix product, a copy, an all-reduce if there is one."""
    means = []
    for name in ("matmul_sec", "copy_sec", "all_reduce_sec"):
        times = []
        for rank in ranks:
            time = rank.get(name)
            if time is not None:
                times.append(time)
        if times:
            means.append(statistics.fmean(times))
    return _shortened(means)


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
