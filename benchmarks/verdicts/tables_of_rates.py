"""The tables of results.md, from counts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drift import NOISE_PCT, NUM_UPDATES, PRIOR_PCT, TOLERANCE_PCT, DriftRow
from rates import BASELINES, MAIN_BASELINE, NOT_FOUND, REPORT_SEED, Cell, pick
from recorded import Trace, autocorrelation, noise_pct
from rules import OURS, RULES, Call
from scenarios import SCENARIOS, SHIFTS_PCT, Scenario
from settling import RAMPS_PCT, SettlingRow

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import markdown_table


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What was asked of a scenario with five baseline runs: upper limits."""

    scenario: str
    false_alarms_pct: float
    misses_pct: float
    launches: float


GOALS = (
    Goal(scenario="quiet", false_alarms_pct=0.1, misses_pct=0.1, launches=1.0),
    Goal(scenario="cluster", false_alarms_pct=0.2, misses_pct=1.0, launches=1.4),
    Goal(scenario="cluster, told 1.0%", false_alarms_pct=0.2, misses_pct=1.0, launches=1.4),
)

_ABOUT_GOALS = """\
Five baseline runs. *Told* is the noise between launches that the rule is told to expect. The goals say nothing of it:
the first row of a machine tells its true noise, which nobody knows beforehand; the row that tells the catalog's figure
is what a project gets that says nothing (`run_noise_pct` of
[systems.json](../../src/pytest_nemoperf/catalog/systems.json), all GPU systems alike)."""


def render_results(
    cells: Sequence[Cell],
    *,
    drift: Sequence[DriftRow],
    traces: Sequence[Trace],
    recorded: Sequence[Cell],
    settling: Sequence[SettlingRow],
    trials: int,
) -> str:
    """Return the whole file."""
    parts = [
        _introduction(trials),
        f"## Goals\n\n{_ABOUT_GOALS}\n\n{_goals(cells)}",
        *(_scenario_section(scenario, cells=cells) for scenario in SCENARIOS if not scenario.is_variant),
        "## Told another noise, or other days\n\nOurs beside the candidates where an assumption does not hold.\n\n"
        + _variants(cells),
        "## How many baseline runs\n\nOurs. Misses are of a loss equal to the tolerance; undecided ones count.\n\n"
        + _by_baseline(cells),
        "## What is found of which loss\n\nOurs, five baseline runs: percent called REGRESSED / left undecided.\n\n"
        + _by_shift(cells),
        _drift_section(drift),
        _recorded_section(traces, recorded=recorded),
        _settling_section(settling),
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(trials: int) -> str:
    return f"""# Error rates of verdicts

Made by `make bench-verdicts`; don't edit. The rule is explained in [docs/verdicts.md](../../docs/verdicts.md).

![false alarms, detection and launches of every rule](results.svg)

Every rule judges the same {trials:,} trials of a scenario ([scenarios.py](scenarios.py), seed {REPORT_SEED}; the
rule was tuned on other seeds). A trial is up to 10 launches of the baseline and 5 of today, 25 steps each, of
which the first two are slow and the first five are warm-up. A *false alarm* is a case called REGRESSED (a two-
sided rule: failed) though nothing changed. A *miss* is a loss equal to the tolerance that is not called REGRESSED;
*undecided* is the part of the misses that says INCONCLUSIVE (or refuses) instead of passing. Shares are percent,
with exact 95% intervals. Rules that compare with a flat tolerance get the scenario's, so they miss half of the
losses that equal it by construction. What each rule does is in [rules.py](rules.py)."""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _goals(cells: Sequence[Cell]) -> str:
    rows = []
    for goal in GOALS:
        scenario = next(each for each in SCENARIOS if each.name == goal.scenario)
        same, lost = (
            pick(cells, scenario=goal.scenario, rule=OURS, shift_pct=shift) for shift in (0.0, scenario.tolerance_pct)
        )
        is_met = (
            same.share_pct(Call.REGRESSED) <= goal.false_alarms_pct
            and lost.share_pct(*NOT_FOUND) <= goal.misses_pct
            and same.launches_each <= goal.launches + 0.005
        )
        rows.append(
            (
                f"{scenario.name.partition(',')[0]}, tolerance {scenario.tolerance_pct:g}%",
                f"{scenario.prior_pct:g}%, {scenario.title if scenario.is_variant else 'its true noise'}",
                f"{same.with_interval(Call.REGRESSED)} of {goal.false_alarms_pct:g}",
                f"{lost.with_interval(*NOT_FOUND)} of {goal.misses_pct:g}",
                f"{same.launches_each:.2f} of {goal.launches:g}",
                "yes" if is_met else "NO",
            )
        )
    return markdown_table(("scenario", "told", "false alarms", "misses", "launches, nothing changed", "met"), rows=rows)


def _scenario_section(scenario: Scenario, *, cells: Sequence[Cell]) -> str:
    rows = [_rule_row(scenario, rule=rule, cells=cells) for rule in RULES]
    head = ("rule", "false alarms", "misses", "undecided", "launches, nothing changed", "launches, regressed")
    return (
        f"## {_capital(scenario.name)}\n\n{_capital(scenario.title)}; tolerance {scenario.tolerance_pct:g}%, "
        f"told {scenario.prior_pct:g}%; {MAIN_BASELINE} baseline runs.\n\n{markdown_table(head, rows=rows)}"
    )


def _rule_row(scenario: Scenario, *, rule: str, cells: Sequence[Cell]) -> tuple[str, ...]:
    same, lost = (
        pick(cells, scenario=scenario.name, rule=rule, shift_pct=shift) for shift in (0.0, scenario.tolerance_pct)
    )
    return (
        rule,
        same.with_interval(Call.REGRESSED),
        lost.with_interval(*NOT_FOUND),
        f"{lost.share_pct(Call.UNDECIDED):.2f}",
        f"{same.launches_each:.2f}",
        f"{lost.launches_each:.2f}",
    )


def _variants(cells: Sequence[Cell]) -> str:
    rows = []
    for scenario in (each for each in SCENARIOS if each.is_variant):
        rules = dict.fromkeys(cell.rule for cell in cells if cell.scenario == scenario.name)
        for rule in rules:
            _, *figures = _rule_row(scenario, rule=rule, cells=cells)
            what = f"{scenario.name}: {scenario.title}" if rule == OURS else ""
            rows.append((what, rule, *figures))
    head = ("scenario", "rule", "false alarms", "misses", "undecided", "launches, nothing changed", "regressed")
    return markdown_table(head, rows=rows)


def _by_baseline(cells: Sequence[Cell]) -> str:
    rows = []
    for scenario in SCENARIOS:
        for count in BASELINES:
            same, lost = (
                pick(cells, scenario=scenario.name, rule=OURS, shift_pct=shift, num_baseline=count)
                for shift in (0.0, scenario.tolerance_pct)
            )
            rows.append(
                (
                    scenario.name if count == BASELINES[0] else "",
                    str(count),
                    same.with_interval(Call.REGRESSED),
                    lost.with_interval(*NOT_FOUND),
                    f"{lost.share_pct(Call.UNDECIDED):.2f}",
                    f"{same.launches_each:.2f}",
                )
            )
    head = ("scenario", "runs", "false alarms", "misses", "undecided", "launches, nothing changed")
    return markdown_table(head, rows=rows)


def _by_shift(cells: Sequence[Cell]) -> str:
    rows = []
    for scenario in SCENARIOS:
        found = [pick(cells, scenario=scenario.name, rule=OURS, shift_pct=shift) for shift in SHIFTS_PCT]
        shares = [f"{cell.share_pct(Call.REGRESSED):.1f} / {cell.share_pct(Call.UNDECIDED):.1f}" for cell in found]
        rows.append((f"{scenario.name}, tolerance {scenario.tolerance_pct:g}%", *shares))
    return markdown_table(("scenario", *(f"{shift:g}%" for shift in SHIFTS_PCT)), rows=rows)


def _drift_section(rows: Sequence[DriftRow]) -> str:
    cells = [
        (
            f"{row.decay_pct:g}%",
            "newest and anchor" if row.has_anchor else "newest only",
            f"{row.caught_pct:.2f} ({row.interval[0]:.2f} to {row.interval[1]:.2f})",
            "-" if row.median_loss_pct is None else f"{row.median_loss_pct:g}%",
            f"{row.launches:.2f}",
        )
        for row in rows
    ]
    head = ("lost per update", "judged against", "called REGRESSED within all updates", "at a loss of", "launches")
    return (
        f"## Slow decay\n\n{NUM_UPDATES} updates of the baseline, one after the other; noise {NOISE_PCT:g}%, told "
        f"{PRIOR_PCT:g}%, tolerance {TOLERANCE_PCT:g}%. The newest baseline follows the decay; the release anchor "
        f"stays.\n\n{markdown_table(head, rows=cells)}"
    )


def _recorded_section(traces: Sequence[Trace], *, recorded: Sequence[Cell]) -> str:
    shifts = sorted({cell.shift_pct for cell in recorded})
    about = [
        (
            trace.name,
            str(len(trace.recorded)),
            str(len(trace.recorded) - len(trace.times)),
            *(f"{noise_pct(trace.half(is_second=second)):.1f}%" for second in (False, True)),
            f"{autocorrelation(trace.times):+.2f}",
        )
        for trace in traces
    ]
    rows = []
    for trace in traces:
        for rule in RULES:
            found = [pick(recorded, scenario=trace.name, rule=rule, shift_pct=shift) for shift in shifts]
            rows.append(
                (
                    trace.name if rule == OURS else "",
                    rule,
                    *(f"{each.share_pct(Call.REGRESSED):.1f} / {each.share_pct(Call.UNDECIDED):.1f}" for each in found),
                    f"{found[0].launches_each:.2f}",
                )
            )
    head_about = ("recording", "launches", "unsettled", "noise, first half", "second half", "autocorrelation")
    head = ("recording", "rule", *(f"{shift:g}%" for shift in shifts), "launches, nothing changed")
    windows = recorded[0].trials if recorded else 0
    return (
        "## Recorded on a shared 2-core machine\n\nTiny models on this project's own CPU engine, launched one after "
        f"the other ([traces](traces)).\n\n{markdown_table(head_about, rows=about)}\n\nSecond halves only, tolerance "
        f"and noise as the catalog has them for `cpu`: percent called REGRESSED / undecided by loss. About {windows} "
        f"overlapping windows each: as much as some three independent ones.\n\n{markdown_table(head, rows=rows)}"
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
