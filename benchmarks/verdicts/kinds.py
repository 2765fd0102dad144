"""Error rates of kinds of cases that the catalog expects other noise of: one GPU, and calls of the test process.

Each is judged by the catalog's figures for its kind on machines that are as recorded, as expected, and worse than
expected. Run: ``python benchmarks/verdicts/kinds.py [--trials 2000]``; prints a section of results.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rates import AT_FOUND, AT_TOLERANCE, NO_LOSS, REPORT_SEED, Cell, cell_of
from rules import CALL_OF, METRIC, Call, Calls, Session, limits_of, run_session
from scenarios import (
    CALM_STEPS,
    MAX_BASELINE_RUNS,
    QUIET_STEPS,
    STALL_STEPS,
    Noise,
    Steps,
    Trials,
    plain,
    run_costs,
    shifted,
    stalling,
)

from pytest_nemoperf.recipes.case_kind import CaseKind
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.verdict.defaults import CONFIRMING_ROUNDS
from pytest_nemoperf.verdict.policy import VerdictPolicy, system_policy
from pytest_nemoperf.verdict.sequential import cost_of_loss, loss_of_cost

sys.path.insert(0, str(Path(__file__).parents[1]))
from tables import markdown_table

KINDS_HEADING = "## Kinds of cases"
_SYSTEM = "h100"
_RUNS_OF_A_BASELINE = 3
_CHUNK = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine that cases of a kind run on.

    Attributes:
        name: In the table.
        noise: Its true noise.
        steps: Scatter of the steps.
        stall_share: Share of launches, and of sides of rounds, that stall as a whole.
    """

    name: str
    noise: Noise
    steps: Steps = CALM_STEPS
    stall_share: float = 0.0

    def draw(self, rng: np.random.Generator, trials: int) -> Trials:
        """Return so many trials."""
        if self.stall_share:
            return stalling(rng, trials, noise=self.noise, share=self.stall_share, steps=self.steps)
        return plain(rng, trials, noise=self.noise, steps=self.steps)


ONE_GPU = (
    Machine(name="as recorded", noise=Noise(run_pct=0.09, session_pct=0.3, round_pct=0.1)),
    Machine(name="as expected", noise=Noise(run_pct=0.3, session_pct=0.7, round_pct=0.4), steps=QUIET_STEPS),
    Machine(name="days of 1%", noise=Noise(run_pct=0.1, session_pct=1.0, round_pct=0.1)),
    Machine(name="days of 1%, all else worse", noise=Noise(run_pct=0.5, session_pct=1.0, round_pct=0.5)),
    Machine(
        name="2% stall", noise=Noise(run_pct=0.3, session_pct=0.3, round_pct=0.3), steps=STALL_STEPS, stall_share=0.02
    ),
)
CALLS = (
    Machine(name="as expected", noise=Noise(run_pct=2.0, session_pct=2.5, round_pct=2.8)),
    Machine(name="days of 5%", noise=Noise(run_pct=2.0, session_pct=5.0, round_pct=2.8)),
    Machine(name="processes differ as sessions do", noise=Noise(run_pct=3.0, session_pct=0.0, round_pct=4.2)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A kind of case, and what is asked of it.

    Attributes:
        kind: The kind.
        text: In the table.
        machines: Machines that it is judged on.
        find_pct: Loss that must be found; None for the default tolerance.
        is_confirmed: What the baseline does not clear is compared side by side.
    """

    kind: CaseKind
    text: str
    machines: tuple[Machine, ...]
    find_pct: float | None = None
    is_confirmed: bool = True

    @property
    def policy(self) -> VerdictPolicy:
        """Policy of a project that says nothing of its noise."""
        policy = system_policy(find_system(_SYSTEM), kind=self.kind)
        policy = replace(policy, confirming_rounds=CONFIRMING_ROUNDS if self.is_confirmed else 0)
        if self.find_pct is not None:
            policy = replace(policy, finds={METRIC.name: self.find_pct})
        if self.kind is CaseKind.CALLS:
            policy = replace(policy, max_runs=1, min_runs=1)
        return policy

    @property
    def num_baseline_runs(self) -> int:
        """Runs of its baseline, of one session."""
        return 1 if self.kind is CaseKind.CALLS else _RUNS_OF_A_BASELINE


WAYS = (
    Way(kind=CaseKind.ONE_GPU, text="one GPU", machines=ONE_GPU),
    Way(kind=CaseKind.ONE_GPU, text="one GPU, `perf_find=2`", machines=ONE_GPU, find_pct=2.0),
    Way(kind=CaseKind.ONE_GPU, text="one GPU, stored baseline alone", machines=ONE_GPU, is_confirmed=False),
    Way(kind=CaseKind.CALLS, text="calls", machines=CALLS),
    Way(kind=CaseKind.CALLS, text="calls, stored baseline alone", machines=CALLS, is_confirmed=False),
)


def kind_cells(way: Way, *, trials: int, seed: int) -> list[Cell]:
    """Return the counts of a way on each of its machines, at no loss, at what is allowed and at what is found."""
    policy = way.policy
    cells = []
    for machine in way.machines:
        results: dict[str, list[Calls]] = {loss: [] for loss in (NO_LOSS, AT_TOLERANCE, AT_FOUND)}
        shown: dict[str, list[float]] = {loss: [] for loss in results}
        for drawn in _drawn(machine, trials=trials, seed=seed):
            costs = run_costs(drawn.times)
            first = MAX_BASELINE_RUNS - way.num_baseline_runs
            baselines = costs[:, first:MAX_BASELINE_RUNS].tolist()
            limits = [limits_of(before, sessions=(), policy=policy) for before in baselines]
            found = np.array([each.found for each in limits])
            if way.find_pct is not None:
                found = np.full(len(limits), cost_of_loss(way.find_pct, metric=METRIC))
            allowed = np.array([each.allowed for each in limits])
            for loss, cost in ((NO_LOSS, np.zeros(len(limits))), (AT_TOLERANCE, allowed), (AT_FOUND, found)):
                results[loss].append(_calls(baselines, trials=shifted(drawn, cost=cost), policy=policy))
                shown[loss].append(loss_of_cost(float(np.median(cost)), metric=METRIC))
        for loss, calls in results.items():
            loss_pct = float(np.median(shown[loss]))
            cells.append(cell_of(calls, scenario=machine.name, rule=way.text, loss=loss, loss_pct=loss_pct))
    return cells


def _calls(baselines: Sequence[Sequence[float]], *, trials: Trials, policy: VerdictPolicy) -> Calls:
    today = run_costs(trials.times)[:, MAX_BASELINE_RUNS:].tolist()
    sessions: list[Session] = []
    for before, now, ratios in zip(baselines, today, trials.rounds.tolist(), strict=True):
        sessions.append(run_session(before, sessions=(), now=now, rounds=ratios, policy=policy))
    return Calls(
        calls=np.array([CALL_OF[each.decision] for each in sessions], dtype=np.int8),
        launches=np.array([each.launches for each in sessions], dtype=np.int8),
        rounds=np.array([each.rounds for each in sessions], dtype=np.int8),
    )


def _drawn(machine: Machine, *, trials: int, seed: int) -> Iterator[Trials]:
    rng = np.random.default_rng([seed, *machine.name.encode()])
    for start in range(0, trials, _CHUNK):
        yield machine.draw(rng, min(_CHUNK, trials - start))


def render_kinds(*, trials: int, seed: int, processes: int) -> str:
    """Return the section about kinds of cases."""
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(partial(kind_cells, trials=trials, seed=seed), WAYS))
    rows = []
    for way, cells in zip(WAYS, found, strict=True):
        for machine in way.machines:
            of_machine = {cell.loss: cell for cell in cells if cell.scenario == machine.name}
            none = of_machine[NO_LOSS]
            rows.append(
                (
                    way.text if machine is way.machines[0] else "",
                    machine.name,
                    _noise_text(machine.noise),
                    f"{of_machine[AT_TOLERANCE].loss_pct:.1f}%",
                    f"{of_machine[AT_FOUND].loss_pct:.1f}%",
                    none.with_interval(Call.REGRESSED),
                    of_machine[AT_TOLERANCE].with_interval(Call.REGRESSED),
                    of_machine[AT_FOUND].with_interval(Call.REGRESSED),
                    of_machine[AT_FOUND].with_interval(Call.PASSED, Call.IMPROVED),
                    f"{none.share_pct(Call.UNDECIDED):.1f}",
                    f"{none.with_rounds_pct:.1f}",
                )
            )
    head = (
        "kind and question",
        "machine",
        "truth: launches, days, rounds",
        "allows",
        "finds",
        "no loss REGRESSED",
        "allowed REGRESSED",
        "found REGRESSED",
        "found PASSED",
        "no loss INCONCLUSIVE",
        "no loss, with rounds",
    )
    told = []
    for kind, name in ((CaseKind.ONE_GPU, "one GPU"), (CaseKind.CALLS, "calls of the test process")):
        noise = find_system(_SYSTEM).noise_of(kind)
        told.append(f"{noise.run_pct:g}, {noise.session_pct:g} and {noise.round_pct:g}% of {name}")
    about = (
        f"Made by [kinds.py](kinds.py), {trials:,} trials a row. The rule is told what the catalog expects on "
        f"`{_SYSTEM}` between launches, between sessions and between rounds: {' and '.join(told)}. Baselines are of "
        f"one session: {_RUNS_OF_A_BASELINE} launches, or one measurement of calls. Shares are percent, with exact 95% "
        "intervals. With `perf_find` what a session allows follows from the noise of its rounds so far: where one "
        "stalls it is less than the loss that *allowed REGRESSED* was tried with."
    )
    return f"{KINDS_HEADING}\n\n{about}\n\n{markdown_table(head, rows=rows)}\n"


def _noise_text(noise: Noise) -> str:
    return f"{noise.run_pct:g}, {noise.session_pct:g}, {noise.round_pct:g}%"


def main() -> None:
    """Judge, and print."""
    parser = argparse.ArgumentParser(description="error rates of kinds of cases on GPUs")
    parser.add_argument("--trials", type=int, default=2_000, help="of each machine (default 2000)")
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help=f"default {REPORT_SEED}, which results.md has")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    arguments = parser.parse_args()
    print(render_kinds(trials=arguments.trials, seed=arguments.seed, processes=arguments.processes))


if __name__ == "__main__":
    main()
