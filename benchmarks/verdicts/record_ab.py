"""Records rounds of `--perf-ab` whose two sides are the same code: what the comparison has to see through.

Every step's time is kept, by round, side and block, so that error rates can be computed by drawing rounds again, with a
known slowdown multiplied into the new side. Run it while the machine is in the state you ask about:
``python benchmarks/verdicts/record_ab.py --rounds 100 --out FILE``.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from pytest_nemoperf.ab.plan import DEFAULT_BLOCK_STEPS, plan_for_turns
from pytest_nemoperf.ab.round import ABRunner
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine.identity import detect_devices, machine_key
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import StepRecord

_ROOT = Path(__file__).parents[2]
_DIGITS = 6
_LAYOUTS = {"single": Layout(gpus=1), "fsdp2": Layout(gpus=2, dp_shard=2), "tp2": Layout(gpus=2, tp=2)}


def main() -> None:
    """Run the rounds and write the file after each of them, so that an interrupt loses none."""
    parser = argparse.ArgumentParser(description="rounds of --perf-ab with the same code on both sides")
    parser.add_argument("--rounds", type=int, required=True, help="how many")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--layout", choices=sorted(_LAYOUTS), default="fsdp2", help="of llama-tiny (default fsdp2)")
    parser.add_argument("--block-steps", type=int, default=DEFAULT_BLOCK_STEPS, help="steps of a block")
    parser.add_argument("--seed", type=int, default=1, help="of the order of the sides")
    arguments = parser.parse_args()
    plan = plan_for_turns(_plan(_LAYOUTS[arguments.layout]), block_steps=arguments.block_steps)
    old, new = (ABSide(name=name, origin="the same code", root=_ROOT, paths=("src",)) for name in ("old", "new"))
    # Both sides are the working tree, so nothing is swapped, and nothing is the other side's.
    trees = ABTrees(new=_ROOT, old=_ROOT / "no checkout", state_dir=_ROOT)
    runner = ABRunner(old, new, trees=trees)
    chance = random.Random(arguments.seed)  # noqa: S311 (no secret: who begins)
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(arguments.rounds):
                rounds.append(
                    _round(runner, plan, first=chance.choice(("old", "new")), folder=Path(folder) / str(number),
                           block_steps=arguments.block_steps)
                )  # fmt: skip
                _write(arguments.out, plan=plan, rounds=rounds, block_steps=arguments.block_steps, seed=arguments.seed)
                print(f"round {number + 1} of {arguments.rounds}: {rounds[-1]['took_sec']} s", flush=True)
        finally:
            runner.close()


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


def _round(runner: ABRunner, plan: Plan, *, first: str, folder: Path, block_steps: int) -> dict[str, Any]:
    started = time.monotonic()
    output = runner.by_turns(
        {"old": plan, "new": plan},
        framework=TorchFramework(),
        run_dir=folder,
        first=first,
        block_steps=block_steps,
        on_progress=lambda _: None,
    )
    return {
        "first": first,
        "took_sec": round(time.monotonic() - started, 2),
        "old": _blocks(output.old.records, block_steps=block_steps),
        "new": _blocks(output.new.records, block_steps=block_steps),
    }


def _blocks(records: tuple[StepRecord, ...], *, block_steps: int) -> list[list[float]]:
    times = [float(f"{record.step_time_sec:.{_DIGITS}g}") for record in records]
    return [times[start : start + block_steps] for start in range(0, len(times), block_steps)]


def _write(path: Path, *, plan: Plan, rounds: list[dict[str, Any]], block_steps: int, seed: int) -> None:
    data = {
        "case": plan.case,
        "machine": machine_key(find_system("cpu"), devices=detect_devices()),
        "warmup_blocks": plan.warmup_steps // block_steps,
        "block_steps": block_steps,
        "seed": seed,
        "rounds": rounds,
    }
    path.write_text(json.dumps(data) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
