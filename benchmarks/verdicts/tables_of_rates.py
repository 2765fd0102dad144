"""The tables of results.md, from counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drift import NUM_UPDATES, ROUND_PCT, RUN_PCT, SESSION_PCT, SYSTEM, DriftRow
from old_rule import OLD_TOLERANCES_PCT
from rates import (
    AT_FOUND,
    AT_TOLERANCE,
    LOSSES,
    NO_LOSS,
    REPORT_SEED,
    Cell,
    pick,
)
from recorded import Trace, autocorrelation, noise_pct
from rules import BEFORE, MODES, PEERS, USUAL, Call, Mode, policy_of
from scenarios import (
    MAX_BASELINE_RUNS,
    MAX_RUNS,
    NUM_ROUNDS,
    NUM_SESSIONS,
    RUNS_OF_A_SESSION,
    SCENARIOS,
    Scenario,
)
from settling import RAMPS_PCT, SettlingRow

from pytest_nemoperf.recipes.systems import find_system

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import markdown_table

_SYSTEMS = ("h100", "cpu")
_SHOWN_PCT = {"h100": (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0), "cpu": (0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Limit to a share of trials, percent.

    Attributes:
        loss: The loss, see rates.LOSSES.
        text: The loss and the verdict in words.
        calls: Verdicts that are counted.
        most_pct: At most so many of them; None for a lower limit.
        least_pct: At least so many; None for an upper limit.
    """

    loss: str
    text: str
    calls: tuple[Call, ...]
    most_pct: float | None = None
    least_pct: float | None = None

    def is_met(self, cell: Cell) -> bool:
        """Return whether the share of a cell keeps the limit."""
        share_pct = cell.share_pct(*self.calls)
        if self.most_pct is not None and share_pct > self.most_pct:
            return False
        return self.least_pct is None or share_pct >= self.least_pct


GOALS = (
    Goal(loss=NO_LOSS, text="no loss REGRESSED, at most 0.1%", calls=(Call.REGRESSED,), most_pct=0.1),
    Goal(loss=AT_TOLERANCE, text="allowed REGRESSED, at most 0.5%", calls=(Call.REGRESSED,), most_pct=0.5),
    Goal(loss=AT_FOUND, text="found REGRESSED, at least 99%", calls=(Call.REGRESSED,), least_pct=99.0),
)
_PASSED = (Call.PASSED, Call.IMPROVED)


def render_results(
    cells: Sequence[Cell],
    *,
    curves: Sequence[Cell],
    drift: Sequence[DriftRow],
    traces: Sequence[Trace],
    settling: Sequence[SettlingRow],
    trials: int,
) -> str:
    """Return the whole file but for what is recorded in sessions and rounds."""
    parts = [_introduction(trials), _goals(cells)]
    for mode in MODES:
        parts.append(_mode_section(mode, cells=cells))
    parts += [
        _meanings_section(cells, curves=curves),
        _peers_section(cells),
        _drift_section(drift),
        _recorded_section(traces),
        _settling_section(settling),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(trials: int) -> str:
    allowed = [f"{find_system(system).tolerance_pct:g}%" for system in _SYSTEMS]
    tables = [(scenario.name, scenario.title) for scenario in SCENARIOS]
    parts = [
        "# Error rates of verdicts",
        "Made by `make bench-verdicts`; don't edit. The rule is explained in "
        "[docs/verdicts.md](../../docs/verdicts.md).",
        "![chance of each verdict by loss, on four kinds of machine](results.svg)",
        f"Every rule judges the same {trials:,} trials of a scenario ([scenarios.py](scenarios.py), seed "
        f"{REPORT_SEED}; what was tuned, was on other seeds). A trial is a baseline of {MAX_BASELINE_RUNS} launches in "
        f"{NUM_SESSIONS} sessions, of which a baseline of one session is the last {RUNS_OF_A_SESSION}; up to "
        f"{MAX_RUNS} launches of today, 25 steps each, of which the first two are slow and the first five are "
        f"warm-up; and up to {NUM_ROUNDS} rounds of today side by side. The loss is in today's launches and on the new "
        f"side of its rounds. *Allowed* is the tolerance ({allowed[0]} on GPUs, {allowed[1]} on CPUs), *found* is the "
        "loss that a case says it finds: with rounds the same for every baseline, without them each baseline's own "
        "(shown: the median). PASSED includes IMPROVED. Shares are percent, with exact 95% intervals.",
        "*Told the truth*: the rule is told the noise of the machine. *Told the catalog*: it is told what a project "
        f"gets that says nothing, {_noise_text('h100')} on several GPUs, {_noise_text('cpu')} on CPUs "
        "([systems.json](../../src/pytest_nemoperf/catalog/systems.json)). One GPU, and calls of the test process, "
        "have figures of their own: see *Kinds of cases*.",
        markdown_table(("scenario", "what happens there"), rows=tables),
    ]
    return "\n\n".join(parts)


def _noise_text(system: str) -> str:
    policy = policy_of(system)
    return (
        f"{policy.run_noise_pct:g}% between launches, {policy.session_noise_pct:g}% between sessions and "
        f"{policy.round_noise_pct:g}% between rounds"
    )


def _goals(cells: Sequence[Cell]) -> str:
    rows = []
    for mode in MODES:
        row = [mode.name]
        for goal in GOALS:
            missed = []
            for scenario in SCENARIOS:
                cell = pick(cells, scenario=scenario.name, rule=mode.name, loss=goal.loss)
                if not goal.is_met(cell):
                    missed.append(f"{scenario.name} {cell.share_pct(*goal.calls):.2f}")
            row.append(", ".join(missed) or "all")
        rows.append(row)
    head = ("rule", *(goal.text for goal in GOALS))
    about = "What is asked of every scenario: *all* where each keeps it, else those that don't, with their share."
    return f"## Goals\n\n{about}\n\n{markdown_table(head, rows=rows)}"


_ABOUT_MODES = {
    (True, 1): "A stored baseline of one session screens; what it does not clear is compared side by side.",
    (False, 1): "A stored baseline of one session alone: nothing can be compared side by side.",
    (False, NUM_SESSIONS): f"A stored baseline of {NUM_SESSIONS} sessions alone: nothing can be compared side by side.",
}


def _mode_section(mode: Mode, *, cells: Sequence[Cell]) -> str:
    rows = []
    for scenario in SCENARIOS:
        for loss in LOSSES:
            rows.append(_verdict_row(scenario, loss=loss, rule=mode.name, cells=cells, is_confirmed=mode.is_confirmed))
    head = ["scenario", "loss", "REGRESSED", "PASSED", "INCONCLUSIVE", "launches"]
    if mode.is_confirmed:
        head += ["sessions with rounds", "rounds"]
    about = _ABOUT_MODES[mode.is_confirmed, mode.num_sessions]
    return f"## {_capital(mode.name)}\n\n{about}\n\n{markdown_table(head, rows=rows)}"


def _verdict_row(
    scenario: Scenario, *, loss: str, rule: str, cells: Sequence[Cell], is_confirmed: bool
) -> tuple[str, ...]:
    cell = pick(cells, scenario=scenario.name, rule=rule, loss=loss)
    text = "none" if loss == NO_LOSS else f"{cell.loss_pct:.1f}%, {loss}"
    row = [
        scenario.name if loss == NO_LOSS else "",
        text,
        cell.with_interval(Call.REGRESSED),
        cell.with_interval(*_PASSED),
        cell.with_interval(Call.UNDECIDED),
        f"{cell.launches_each:.2f}",
    ]
    if is_confirmed:
        low_high = f"{cell.with_rounds_pct:.1f}"
        row += [low_high, f"{cell.rounds_each:.1f}" if cell.with_rounds else "-"]
    return tuple(row)


def _meanings_section(cells: Sequence[Cell], *, curves: Sequence[Cell]) -> str:
    has_old = any(cell.rule == BEFORE for cell in cells)
    parts = [
        "## Both meanings of a tolerance",
        f"Before, a tolerance was the smallest loss that matters, and half of it harmless; defaults were "
        f"{OLD_TOLERANCES_PCT['h100']:g}% on GPUs and {OLD_TOLERANCES_PCT['cpu']:g}% on CPUs, and nothing was compared "
        "side by side. Percent called REGRESSED / left INCONCLUSIVE by loss, both told the catalog.",
    ]
    for system in _SYSTEMS:
        rows = []
        for scenario in SCENARIOS:
            if scenario.system != system:
                continue
            for rule in (BEFORE, USUAL.name):
                if rule == BEFORE and not has_old:
                    continue
                found = [
                    pick(curves, scenario=scenario.name, rule=rule, loss=f"{loss:g}") for loss in _SHOWN_PCT[system]
                ]
                shares = [
                    f"{cell.share_pct(Call.REGRESSED):.1f} / {cell.share_pct(Call.UNDECIDED):.1f}" for cell in found
                ]
                rows.append((scenario.name if rule == BEFORE else "", "before" if rule == BEFORE else "now", *shares))
        parts.append(markdown_table(("scenario", "rule", *(f"{loss:g}%" for loss in _SHOWN_PCT[system])), rows=rows))
    if has_old:
        rows = []
        for scenario in SCENARIOS:
            for loss in (NO_LOSS, AT_TOLERANCE):
                rows.append(_verdict_row(scenario, loss=loss, rule=BEFORE, cells=cells, is_confirmed=False))
        parts.append("The rule of before on all trials; *allowed* stands for its tolerance, which it had to find:")
        head = ("scenario", "loss", "REGRESSED", "PASSED", "INCONCLUSIVE", "launches")
        parts.append(markdown_table(head, rows=rows))
    return "\n\n".join(parts)


def _peers_section(cells: Sequence[Cell]) -> str:
    rows = []
    for scenario in SCENARIOS:
        for rule in (USUAL.name, *PEERS):
            row = [scenario.name if rule == USUAL.name else "", "ours" if rule == USUAL.name else rule]
            for loss in LOSSES:
                cell = pick(cells, scenario=scenario.name, rule=rule, loss=loss)
                row.append(cell.with_interval(Call.REGRESSED))
            same = pick(cells, scenario=scenario.name, rule=rule, loss=NO_LOSS)
            row.append(f"{same.launches_each:.2f}")
            rows.append(row)
    head = ("scenario", "rule", "no loss", "at what is allowed", "at what ours finds", "launches, no loss")
    return (
        "## Others' rules\n\nPercent that fails, REGRESSED with ours (with rounds, told the catalog). All are given "
        "the same tolerance, but for moe_perf and Mann-Whitney, which have their own or none; what each does is in "
        f"[rules.py](rules.py).\n\n{markdown_table(head, rows=rows)}"
    )


def _drift_section(rows: Sequence[DriftRow]) -> str:
    cells = [
        (
            f"{row.decay_pct:g}%",
            "newest and anchor" if row.has_anchor else "newest only",
            f"{row.caught_pct:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})",
            "-" if row.median_loss_pct is None else f"{row.median_loss_pct:g}%",
            f"{row.with_rounds_pct:.1f}",
        )
        for row in rows
    ]
    head = ("lost per update", "judged against", "called REGRESSED within all updates", "at a loss of", "with rounds")
    return (
        f"## Slow decay\n\n{NUM_UPDATES} updates of the baseline, one after the other; {RUN_PCT:g}% between launches, "
        f"{SESSION_PCT:g}% between days, {ROUND_PCT:g}% between rounds, told the catalog, "
        f"{find_system(SYSTEM).tolerance_pct:g}% allowed. The newest baseline follows the decay; the release anchor "
        f"stays.\n\n{markdown_table(head, rows=cells)}"
    )


def _recorded_section(traces: Sequence[Trace]) -> str:
    rows = [
        (
            trace.name,
            str(len(trace.recorded)),
            str(len(trace.recorded) - len(trace.times)),
            *(f"{noise_pct(trace.half(is_second=second)):.1f}%" for second in (False, True)),
            f"{autocorrelation(trace.times):+.2f}",
        )
        for trace in traces
    ]
    head = ("recording", "launches", "unsettled", "noise, first half", "second half", "autocorrelation")
    return (
        "## Recorded launches of one session\n\nTiny models on this project's own CPU engine, launched one after the "
        f"other on a shared 2-core machine ([traces](traces)).\n\n{markdown_table(head, rows=rows)}"
    )


def _settling_section(rows: Sequence[SettlingRow]) -> str:
    cells = [
        (row.name, str(row.runs), *(f"{share:.1f}" for share in row.unsettled_pct), f"{row.dropping_pct:.1f}")
        for row in rows
    ]
    head = ("run of 20 steps", "runs", *(f"ramp of {ramp:g}%" for ramp in RAMPS_PCT), "drops steps, no ramp")
    return (
        "## Steady state\n\nPercent of runs that are called unsettled when their steps get slower by so much from "
        "first to last, and percent that drop first steps as warm-up though there is no ramp. An unsettled run is "
        f"launched once more; INVALID it is if that one is unsettled too.\n\n{markdown_table(head, rows=cells)}"
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
