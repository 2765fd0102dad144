"""Errors of `--perf-ab` on a recorded machine: rounds of record_ab.py drawn again, with a known slowdown.

Each trial draws recorded rounds with replacement, makes the new side lose so much throughput, and judges after each
round as a session does, until there is a verdict or the time is up, counting the seconds that rounds took. In the
recordings both sides are the same code, so which one is called new is drawn as well: the truth is the loss and
nothing else. What a session's helper processes may add to all of its rounds shows in the first table: the mean of each
recording beside its standard error.
``python benchmarks/verdicts/ab_errors.py FILE ... [--trials 1000]`` prints a markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rules import decide_rounds

from pytest_nemoperf.ab.comparison import MIN_ROUNDS
from pytest_nemoperf.ab.ratios import turns_error, turns_ratio
from pytest_nemoperf.ab.series import affordable_rounds
from pytest_nemoperf.options.declare import DEFAULT_AB_LIMIT_SEC
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.records.step import StepRecord
from pytest_nemoperf.verdict.defaults import DEFAULT_ALPHA, DEFAULT_BETA
from pytest_nemoperf.verdict.policy import VerdictPolicy, system_policy
from pytest_nemoperf.verdict.sequential import Decision, cost_of_loss

_LOSSES_PCT = (0.0, 1.0, 3.0, 5.0, 8.0, 12.0)
_START_SEC = 3.0  # of the first round, which also starts the helpers


def main() -> None:
    """Draw and print."""
    parser = argparse.ArgumentParser(description="error rates of --perf-ab on recorded rounds")
    parser.add_argument("files", type=Path, nargs="+", help="written by record_ab.py")
    parser.add_argument("--trials", type=int, default=1000, help="for each loss (default 1000)")
    parser.add_argument("--tolerance", type=float, default=3.0, help="allowed, percent (default 3)")
    parser.add_argument("--limit", type=float, default=DEFAULT_AB_LIMIT_SEC, help="seconds a case may take")
    parser.add_argument("--alpha", type=float, default=DEFAULT_ALPHA)
    parser.add_argument("--beta", type=float, default=DEFAULT_BETA)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rounds: list[_Recorded] = []
    print("| recording | rounds | seconds a round | mean ratio | its standard error | scatter of rounds |")
    print("| --------- | ------ | --------------- | ---------- | ------------------ | ----------------- |")
    for path in arguments.files:
        recorded = _rounds(json.loads(path.read_text(encoding="utf-8")))
        rounds += recorded
        ratios = [100 * each.ratio for each in recorded]
        scatter = statistics.stdev(ratios)
        print(
            f"| {path.stem} | {len(ratios)} | {statistics.median(each.took_sec for each in recorded):.1f} "
            f"| {statistics.fmean(ratios):+.2f}% | {scatter / math.sqrt(len(ratios)):.2f}% | {scatter:.2f}% |"
        )
    print(f"\nTolerance {arguments.tolerance:g}%, limit {arguments.limit:g} s, {arguments.trials} trials a row.\n")
    print("| loss | REGRESSED | PASSED | IMPROVED | INCONCLUSIVE | rounds | seconds |")
    print("| ---- | --------- | ------ | -------- | ------------ | ------ | ------- |")
    policy = replace(
        system_policy(find_system("cpu")),
        tolerances={TOKENS_PER_SEC_PER_GPU.name: arguments.tolerance},
        alpha=arguments.alpha,
        beta=arguments.beta,
    )
    for loss_pct in _LOSSES_PCT:
        print(_row(rounds, loss_pct=loss_pct, policy=policy, arguments=arguments, seed=arguments.seed), flush=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recorded:
    """A recorded round: its ratio, what its own steps say of the ratio's error, and the seconds it took."""

    ratio: float
    error: float
    took_sec: float


def _rounds(data: dict[str, Any]) -> list[_Recorded]:
    found = []
    for each in data["rounds"]:
        old, new = (_records(each[side][data["warmup_blocks"] :]) for side in ("old", "new"))
        found.append(
            _Recorded(
                ratio=turns_ratio(old, new),
                error=turns_error(old, new, block_steps=data["block_steps"]),
                took_sec=each["took_sec"],
            )
        )
    return found


def _records(blocks: list[list[float]]) -> list[StepRecord]:
    times = [time for block in blocks for time in block]
    return [StepRecord(step=step, step_time_sec=time, tokens=1) for step, time in enumerate(times)]


def _row(
    rounds: list[_Recorded], *, loss_pct: float, policy: VerdictPolicy, arguments: argparse.Namespace, seed: int
) -> str:
    chance = random.Random(seed)  # noqa: S311 (no secret)
    counts: Counter[Decision] = Counter()
    numbers = []
    seconds = []
    for _ in range(arguments.trials):
        decision, number, took = _trial(
            rounds, loss_pct=loss_pct, policy=policy, limit_sec=arguments.limit, chance=chance
        )
        counts[decision] += 1
        numbers.append(number)
        seconds.append(took)
    cells = [f"{loss_pct:g}%"]
    for each in (Decision.WORSE, Decision.SAME, Decision.BETTER, Decision.UNDECIDED):
        cells.append(f"{100 * counts[each] / arguments.trials:.1f}%")
    cells += [f"{statistics.fmean(numbers):.1f}", f"{statistics.fmean(seconds):.0f}"]
    return "| " + " | ".join(cells) + " |"


def _trial(
    rounds: list[_Recorded], *, loss_pct: float, policy: VerdictPolicy, limit_sec: float, chance: random.Random
) -> tuple[Decision, int, float]:
    loss = cost_of_loss(loss_pct, metric=TOKENS_PER_SEC_PER_GPU)
    ratios: list[float] = []
    errors: list[float] = []
    durations: list[float] = []
    while True:
        drawn = chance.choice(rounds)
        ratios.append(chance.choice((drawn.ratio, -drawn.ratio)) + loss)
        errors.append(drawn.error)
        durations.append(drawn.took_sec + (0.0 if durations else _START_SEC))
        max_rounds = affordable_rounds(durations, num_counted=len(ratios), limit_sec=limit_sec)
        decision = decide_rounds(ratios, errors=errors, policy=policy, num_rounds=max(max_rounds, MIN_ROUNDS))
        if decision is not Decision.UNDECIDED or len(ratios) >= max_rounds:
            return decision, len(ratios), sum(durations)


if __name__ == "__main__":
    main()
