"""Records short sessions of one case over hours: launches with their yardstick, then rounds of equal code by turns.

Verdicts on a stored baseline depend on how the machine's speed changes between sessions, which no simulation knows.
``judge_sessions.py`` judges pairs of these sessions: launches of one as the baseline, those of another as today's, its
rounds as the comparison side by side. Run it for hours, also beside other work:
``python benchmarks/verdicts/record_sessions.py --sessions 60 --every 120 --out FILE``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pytest_nemoperf.ab.plan import DEFAULT_BLOCK_STEPS, plan_for_turns
from pytest_nemoperf.ab.round import ABRunner
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine.identity import detect_devices, machine_key
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import RunOutput
from pytest_nemoperf.runs.execute import run_once

_ROOT = Path(__file__).parents[2]
_DIGITS = 6
_LAYOUTS = {"single": Layout(gpus=1), "fsdp2": Layout(gpus=2, dp_shard=2), "tp2": Layout(gpus=2, tp=2)}


def main() -> None:
    """Run the sessions and write the file after each of them, so that an interrupt loses none."""
    parser = argparse.ArgumentParser(description="short sessions of one case, for verdicts between sessions")
    parser.add_argument("--sessions", type=int, required=True, help="how many")
    parser.add_argument("--every", type=float, default=120.0, help="seconds from one start to the next (default 120)")
    parser.add_argument("--launches", type=int, default=4, help="launches of each session (default 4)")
    parser.add_argument("--rounds", type=int, default=6, help="rounds by turns of each session (default 6)")
    parser.add_argument("--round-steps", type=int, default=12, help="measured steps of a round's sides (default 12)")
    parser.add_argument("--layout", choices=sorted(_LAYOUTS), default="fsdp2", help="of llama-tiny (default fsdp2)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    plan = _plan(_LAYOUTS[arguments.layout])
    sessions: list[dict[str, Any]] = []
    for number in range(arguments.sessions):
        started = time.monotonic()
        try:
            sessions.append(
                _session(plan, launches=arguments.launches, rounds=arguments.rounds, round_steps=arguments.round_steps)
            )
        except NemoPerfError as error:  # other work may have starved it; what was recorded stands
            print(f"session {number + 1} failed: {error}", flush=True)
            continue
        _write(arguments.out, plan=plan, sessions=sessions)
        took = time.monotonic() - started
        print(f"session {number + 1} of {arguments.sessions}: {took:.0f} s", flush=True)
        if number + 1 < arguments.sessions:
            time.sleep(max(0.0, arguments.every - took))


def _plan(layout: Layout) -> Plan:
    recipe = Recipe(
        model="llama-tiny",
        layouts={"cpu": layout},
        seq_len=128,
        global_batch_size=8,
        micro_batch_size=4,
        precision=Precision.FP32,
        steps=20,
        warmup_steps=5,
    )
    return resolve(recipe, system=find_system("cpu"))


def _session(plan: Plan, *, launches: int, rounds: int, round_steps: int) -> dict[str, Any]:
    """Launch the case, then run rounds of it against itself."""
    session: dict[str, Any] = {"time": round(time.time(), 1), "load": psutil.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        session["launches"] = _launches(plan, num=launches, folder=Path(folder))
        session["rounds"] = _rounds(replace(plan, steps=round_steps), num=rounds, folder=Path(folder))
    return session


def _launches(plan: Plan, *, num: int, folder: Path) -> list[dict[str, Any]]:
    launcher = LocalLauncher()
    recorded = []
    try:
        for number in range(num):
            started = time.monotonic()
            output = run_once(
                plan,
                framework=TorchFramework(),
                launcher=launcher,
                run_dir=folder / f"launch-{number}",
                on_progress=lambda _: None,
            )
            recorded.append(
                {
                    "took_sec": _short(time.monotonic() - started),
                    "steps": _step_times(output),
                    "before": _yardsticks(output.yardsticks_before),
                    "after": _yardsticks(output.yardsticks_after),
                    "cpu": to_data(output.health.cpu) if output.health is not None else None,
                }
            )
    finally:
        launcher.close()
    return recorded


def _rounds(plan: Plan, *, num: int, folder: Path) -> list[dict[str, Any]]:
    plan = plan_for_turns(plan, block_steps=DEFAULT_BLOCK_STEPS)
    old, new = (ABSide(name=name, origin="the same code", root=_ROOT, paths=("src",)) for name in ("old", "new"))
    # Both sides are the working tree, so nothing is swapped, and nothing is the other side's.
    runner = ABRunner(old, new, trees=ABTrees(new=_ROOT, old=_ROOT / "no checkout", state_dir=_ROOT))
    recorded = []
    try:
        for number in range(num):
            started = time.monotonic()
            output = runner.by_turns(
                {"old": plan, "new": plan},
                framework=TorchFramework(),
                run_dir=folder / f"round-{number}",
                first=random.choice(("old", "new")),  # noqa: S311 (no secret: which side begins)
                block_steps=DEFAULT_BLOCK_STEPS,
                on_progress=lambda _: None,
            )
            recorded.append(
                {
                    "took_sec": _short(time.monotonic() - started),
                    "warmup_steps": plan.warmup_steps,
                    "old": _step_times(output.old),
                    "new": _step_times(output.new),
                }
            )
    finally:
        runner.close()
    return recorded


def _yardsticks(yardsticks: tuple[Any, ...]) -> list[dict[str, Any]]:
    rows = []
    for each in to_data(yardsticks):
        rows.append({name: None if value is None else _short(value) for name, value in each.items()})
    return rows


def _step_times(output: RunOutput) -> list[float]:
    return [_short(record.step_time_sec) for record in output.records]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _write(path: Path, *, plan: Plan, sessions: list[dict[str, Any]]) -> None:
    data = {
        "case": plan.case,
        "machine": machine_key(find_system("cpu"), devices=detect_devices()),
        "warmup_steps": plan.warmup_steps,
        "block_steps": DEFAULT_BLOCK_STEPS,
        "sessions": sessions,
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
