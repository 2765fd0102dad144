"""Correlation of the yardstick with the step, from a recording of sessions of equal code (record_sessions.py).

For each part of the yardstick, and for their mean, the first table has the correlation of its logarithm with that of
the step, and the scatter of the step that a correction by it leaves: by the best power of it, and by the yardstick
itself. The second has what the sentence of a verdict says of pairs of sessions. Their code is equal, so each change of
the step is the machine's; where the steps are alike, a slowdown of the code is added to the later one's.

``python benchmarks/verdicts/yardstick.py FILE``
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import markdown_table

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.yardstick import Yardstick, mean_yardstick
from pytest_nemoperf.verdict.sick_devices import PARTS
from pytest_nemoperf.verdict.yardstick import yardstick_sentence

MEAN = "mean of the parts"
MIN_APART_SEC = 600.0
"""Sessions that begin later than this one after another are judged as a baseline and a later day."""
MIN_CHANGE = 0.10
CODE_LOSS = 0.40
_NO_SCATTER = 1e-9
ANSWERS = {
    "the machine moved": "the machine moved, which",
    "it did not move by as much": "the machine did not move by as much",
    "it does not tell": "does not tell",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One launch, in logarithms.

    Attributes:
        step: Median step.
        parts: Mean over ranks and both ends of each part, by its name, and the mean of the parts.
        yardsticks: Yardstick of each rank.
    """

    step: float
    parts: dict[str, float]
    yardsticks: tuple[Yardstick, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Foretelling:
    """How well one figure foretells another, both as deviations from their means, in logarithms.

    Attributes:
        correlation: Of the two; NaN if one of them is constant.
        scatter: Standard deviation of the one that is foretold.
        left: The same after the best power of the other is divided out.
        left_undamped: The same after the other itself is divided out.
    """

    correlation: float
    scatter: float
    left: float
    left_undamped: float


def main() -> None:
    """Read the recording and print both tables."""
    parser = argparse.ArgumentParser(description="how well the yardstick foretells the step")
    parser.add_argument("file", type=Path, help="recording of record_sessions.py")
    recording = json.loads(parser.parse_args().file.read_text(encoding="utf-8"))
    print(render(recording))


def render(recording: dict[str, Any]) -> str:
    """Return both tables of a recording."""
    sessions = [_launches(session, recording=recording) for session in recording["sessions"]]
    launches = [launch for session in sessions for launch in session]
    head = f"{recording['case']}: {len(sessions)} sessions, {len(launches)} launches of equal code"
    return "\n\n".join([head, _table_of_parts(sessions), _table_of_answers(recording, sessions=sessions)])


def foretelling(values: Sequence[float], *, by: Sequence[float]) -> Foretelling:
    """Return how well figures foretell values; both are deviations from their means."""
    scatter = _deviation(values)
    undamped = [value - figure for value, figure in zip(values, by, strict=True)]
    correlation = math.nan
    left = scatter
    if min(scatter, _deviation(by)) > _NO_SCATTER:
        correlation = statistics.correlation(values, by)
        left = scatter * math.sqrt(max(0.0, 1 - correlation**2))
    return Foretelling(correlation=correlation, scatter=scatter, left=left, left_undamped=_deviation(undamped))


def _launches(session: dict[str, Any], *, recording: dict[str, Any]) -> list[Launch]:
    launches = []
    for recorded in session["launches"]:
        ends = []
        for end in ("before", "after"):
            ends.append([Yardstick(**rank) for rank in recorded[end]])
        yardsticks = tuple(mean_yardstick(before, after) for before, after in zip(*ends, strict=True))
        parts = {}
        for name, part in PARTS.items():
            times = [getattr(each, name) for each in yardsticks]
            if None not in times:
                parts[part] = statistics.fmean(map(math.log, times))
        parts[MEAN] = statistics.fmean(parts.values())
        step = math.log(statistics.median(recorded["steps"][recording["warmup_steps"] :]))
        launches.append(Launch(step=step, parts=parts, yardsticks=yardsticks))
    return launches


def _table_of_parts(sessions: Sequence[Sequence[Launch]]) -> str:
    rows = []
    for part in sessions[0][0].parts:
        for scope, steps, figures in _scopes(sessions, part=part):
            result = foretelling(steps, by=figures)
            rows.append(
                (
                    part,
                    scope,
                    f"{result.correlation:.2f}",
                    f"{_deviation(figures):.1%}",
                    f"{result.scatter:.1%}",
                    f"{result.left:.1%}",
                    f"{result.left_undamped:.1%}",
                )
            )
    head = ("part", "from", "correlation", "its scatter", "step's scatter", "left, best power", "left, divided by it")
    return markdown_table(head, rows=rows)


def _scopes(sessions: Sequence[Sequence[Launch]], *, part: str) -> list[tuple[str, list[float], list[float]]]:
    """Return deviations of step and part: of launches from their session's mean, and of sessions from the whole."""
    launch_steps: list[float] = []
    launch_parts: list[float] = []
    session_steps: list[float] = []
    session_parts: list[float] = []
    for session in sessions:
        steps = [launch.step for launch in session]
        parts = [launch.parts[part] for launch in session]
        session_steps.append(statistics.fmean(steps))
        session_parts.append(statistics.fmean(parts))
        launch_steps += _centred(steps)
        launch_parts += _centred(parts)
    return [
        ("launch to launch", launch_steps, launch_parts),
        ("session to session", _centred(session_steps), _centred(session_parts)),
    ]


def _table_of_answers(recording: dict[str, Any], *, sessions: Sequence[Sequence[Launch]]) -> str:
    """Return how often the sentence gives each answer where the machine moved, and where the code did."""
    by_machine: Counter[str] = Counter()
    by_code: Counter[str] = Counter()
    starts = [session["time"] for session in recording["sessions"]]
    for then, baseline in enumerate(sessions):
        for now, measured in enumerate(sessions):
            if starts[now] - starts[then] < MIN_APART_SEC:
                continue
            step = statistics.fmean(each.step for each in measured) - statistics.fmean(each.step for each in baseline)
            if abs(step) >= math.log1p(MIN_CHANGE):
                by_machine[_answer(measured, baseline=baseline, step=step)] += 1
            else:
                by_code[_answer(measured, baseline=baseline, step=step + math.log1p(CODE_LOSS))] += 1
    rows = [(answer, _count_text(answer, counts=by_machine), _count_text(answer, counts=by_code)) for answer in ANSWERS]
    head = (
        f"pairs at least {MIN_APART_SEC / 60:.0f} minutes apart",
        f"equal code, steps {MIN_CHANGE:.0%} apart and more",
        f"steps alike, code {CODE_LOSS:.0%} slower",
    )
    return markdown_table(head, rows=rows)


def _answer(measured: Sequence[Launch], *, baseline: Sequence[Launch], step: float) -> str:
    """Return the answer that the sentence gives for a change of the step, a logarithm."""
    loss_pct = -100 * math.expm1(-step)
    text = yardstick_sentence(_runs(measured), _runs(baseline), loss_pct=loss_pct, has_other_libraries=False)
    (answer,) = [answer for answer, words in ANSWERS.items() if words in text]
    return answer


def _count_text(answer: str, *, counts: Counter[str]) -> str:
    total = counts.total()
    if not total:
        return "-"
    return f"{counts[answer]} of {total} ({counts[answer] / total:.0%})"


def _runs(launches: Sequence[Launch]) -> list[Run]:
    runs = []
    for launch in launches:
        runs.append(Run(metrics={}, num_steps=1, step_time_mad_pct=0.0, yardsticks=launch.yardsticks))
    return runs


def _centred(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values)
    return [value - mean for value in values]


def _deviation(values: Sequence[float]) -> float:
    """Return the root mean square of deviations."""
    return math.sqrt(statistics.fmean(value**2 for value in values))


if __name__ == "__main__":
    main()
