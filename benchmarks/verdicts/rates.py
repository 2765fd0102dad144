"""Counts over trials with known truth, and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rules import CANDIDATES, INCUMBENTS, OURS, RULES, Call, Calls, Question
from scenarios import SHIFTS_PCT, Scenario, shifted
from scipy.stats import beta

from pytest_nemoperf.verdict.defaults import DEFAULT_RUNS

BASELINES = (1, 3, 5, 10)
MAIN_BASELINE = DEFAULT_RUNS
REPORT_SEED = 2026
"""Rules were tuned on other seeds (1 to 9), with the same generators."""
_CHUNK = 2_000
_INTERVAL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one rule did with the trials of one scenario and one shift.

    Attributes:
        scenario: Its name.
        rule: Its name.
        num_baseline: Baseline runs.
        shift_pct: True loss.
        counts: Trials by Call.
        launches: Launches in all.
    """

    scenario: str
    rule: str
    num_baseline: int
    shift_pct: float
    counts: tuple[int, int, int, int]
    launches: int

    @property
    def trials(self) -> int:
        """How many trials there were."""
        return sum(self.counts)

    @property
    def launches_each(self) -> float:
        """Launches a trial."""
        return self.launches / self.trials

    def share_pct(self, *calls: Call) -> float:
        """Return the percentage of trials that were called one of these."""
        return 100.0 * sum(self.counts[call] for call in calls) / self.trials

    def with_interval(self, *calls: Call) -> str:
        """Return that percentage with its 95% interval (Clopper and Pearson)."""
        low, high = interval_pct(sum(self.counts[call] for call in calls), trials=self.trials)
        return f"{self.share_pct(*calls):.2f} ({low:.2f} to {high:.2f})"


NOT_FOUND = (Call.PASSED, Call.UNDECIDED, Call.IMPROVED)


def interval_pct(count: int, *, trials: int) -> tuple[float, float]:
    """Return the exact 95% interval of a share, in percent."""
    tail = (1.0 - _INTERVAL) / 2.0
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, trials - count + 1))
    high = 1.0 if count == trials else float(beta.ppf(1.0 - tail, count + 1, trials - count))
    return 100.0 * low, 100.0 * high


def cell_of(results: Sequence[Calls], *, scenario: str, rule: str, num_baseline: int, shift_pct: float) -> Cell:
    """Return the counts of a rule's calls."""
    calls = np.concatenate([result.calls for result in results])
    found = np.bincount(calls, minlength=len(Call))
    return Cell(
        scenario=scenario,
        rule=rule,
        num_baseline=num_baseline,
        shift_pct=shift_pct,
        counts=(int(found[0]), int(found[1]), int(found[2]), int(found[3])),
        launches=int(sum(result.launches.sum() for result in results)),
    )


def cells_of(scenario: Scenario, *, trials: int, seed: int) -> list[Cell]:
    """Return every rule's counts on the same traces of a scenario: every shift, and for ours every baseline."""
    shifts = sorted({*SHIFTS_PCT, scenario.tolerance_pct})
    rules = CANDIDATES if scenario.is_variant else RULES
    asked = [(rule, MAIN_BASELINE) for rule in rules] + [(OURS, n) for n in BASELINES if n != MAIN_BASELINE]
    found: dict[tuple[str, int, float], list[Calls]] = {}
    rng = np.random.default_rng([seed, *scenario.name.encode()])
    for size in _sizes(trials):
        times = scenario.draw(rng, size)
        for shift in shifts:
            slowed = shifted(times, shift_pct=shift)
            for rule, num_baseline in asked:
                question = Question(
                    num_baseline=num_baseline, tolerance_pct=scenario.tolerance_pct, prior_pct=scenario.prior_pct
                )
                found.setdefault((rule, num_baseline, shift), []).append(RULES[rule](slowed, question))
    return [
        cell_of(results, scenario=scenario.name, rule=rule, num_baseline=num_baseline, shift_pct=shift)
        for (rule, num_baseline, shift), results in found.items()
    ]


def pick(
    cells: Sequence[Cell], *, scenario: str, rule: str, shift_pct: float, num_baseline: int = MAIN_BASELINE
) -> Cell:
    """Return the one cell of these."""
    return next(
        cell
        for cell in cells
        if (cell.scenario, cell.rule, cell.shift_pct, cell.num_baseline) == (scenario, rule, shift_pct, num_baseline)
    )


def is_incumbent(rule: str) -> bool:
    """Tell what others use from what was a candidate."""
    return rule in INCUMBENTS


def _sizes(trials: int) -> list[int]:
    whole, rest = divmod(trials, _CHUNK)
    return [_CHUNK] * whole + ([rest] if rest else [])
