"""Judges pairs of recorded sessions, at least ten minutes apart, with known losses; see record_sessions.py.

The launches of the earlier session are the baseline, those of the later one today's. What the baseline does not clear
is decided by the later session's rounds of equal code, with the loss on the new side. The first half of the sessions
is for tuning (the catalog's noise of `cpu` is from there), the second half for the report.
``python benchmarks/verdicts/judge_sessions.py [FILE ...]`` prints markdown tables.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from old_rule import OLD_TOLERANCES_PCT, load_old_rule
from rates import interval_pct
from recorded import FOLDER, is_unsettled
from rules import METRIC, PEERS, Call, Question, limits_of, old_session, policy_of, run_session
from scenarios import MAX_BASELINE_RUNS, Trials

from pytest_nemoperf.ab.ratios import turns_error, turns_ratio, unsettled_turns
from pytest_nemoperf.options.declare import DEFAULT_CONFIRM_LIMIT_SEC
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import StepRecord
from pytest_nemoperf.verdict.policy import VerdictPolicy
from pytest_nemoperf.verdict.sequential import Decision, cost_of_loss, loss_of_cost

sys.path.insert(0, str(Path(__file__).parents[1]))

from tables import markdown_table

RECORDING = FOLDER / "sessions-fsdp2.json"
RECORDED_HEADING = "## Recorded sessions, judged in pairs"
_SYSTEM = "cpu"
_LEAST_APART_SEC = 600.0
_MORE_ROUNDS = 12
_LONGER_SEC = 90.0
_INJECTED = math.log(1.4)  # as --perf-inject=40 makes it: every step takes 40% longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A recorded round of equal code: the logarithm of new over old, its error by its own steps, its duration."""

    ratio: float
    error: float
    took_sec: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSession:
    """A recorded session.

    Attributes:
        time: Start, seconds.
        load: Load average at the start.
        launches: Step times of the launches that settled, warm-up included.
        costs: Costs of the same launches.
        rounds: Rounds whose sides settled.
    """

    time: float
    load: float
    launches: tuple[tuple[float, ...], ...]
    costs: tuple[float, ...]
    rounds: tuple[Round, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Verdicts over pairs of sessions.

    Attributes:
        decisions: Decision of each pair.
        with_rounds: Pairs that were compared in rounds.
        rounds: Rounds in all.
        seconds: Time of rounds in all.
        num_sessions: Sessions that the pairs are of, of which far fewer are independent than there are pairs.
    """

    decisions: tuple[Decision, ...]
    with_rounds: int
    rounds: int
    seconds: float
    num_sessions: int

    def share(self, *decisions: Decision) -> str:
        """Return the percentage of some decisions, with its 95% interval as of so many pairs as there are sessions."""
        share = sum(each in decisions for each in self.decisions) / len(self.decisions)
        low, high = interval_pct(share * self.num_sessions, trials=self.num_sessions)
        return f"{100.0 * share:.1f} ({low:.0f} to {high:.0f})"


def load_sessions(paths: Sequence[Path]) -> list[RecordedSession]:
    """Return the sessions of recordings, in the order of time."""
    sessions = []
    for path in paths:
        data = json.loads(path.read_text(encoding="utf-8"))
        for each in data["sessions"]:
            session = _session(each, warmup_steps=data["warmup_steps"], block_steps=data["block_steps"])
            if session.launches and session.rounds:
                sessions.append(session)
    return sorted(sessions, key=lambda session: session.time)


def _session(data: dict[str, Any], *, warmup_steps: int, block_steps: int) -> RecordedSession:
    launches = []
    costs = []
    for launch in data["launches"]:
        measured = launch["steps"][warmup_steps:]
        if not is_unsettled(measured):
            launches.append(tuple(launch["steps"]))
            costs.append(math.log(statistics.median(measured)))
    rounds = []
    for each in data["rounds"]:
        old, new = (_records(each[side][each["warmup_steps"] :]) for side in ("old", "new"))
        if not unsettled_turns(old, new):
            error = turns_error(old, new, block_steps=block_steps)
            rounds.append(Round(ratio=turns_ratio(old, new), error=error, took_sec=each["took_sec"]))
    return RecordedSession(
        time=data["time"], load=data["load"], launches=tuple(launches), costs=tuple(costs), rounds=tuple(rounds)
    )


def _records(times: Sequence[float]) -> list[StepRecord]:
    return [StepRecord(step=step, step_time_sec=time, tokens=1) for step, time in enumerate(times)]


def pairs_of(sessions: Sequence[RecordedSession]) -> list[tuple[int, int]]:
    """Return the numbers of every two sessions that are at least ten minutes apart, the earlier first."""
    pairs = []
    for (first, earlier), (second, later) in combinations(enumerate(sessions), 2):
        if later.time - earlier.time >= _LEAST_APART_SEC:
            pairs.append((first, second))
    return pairs


def rounds_for(sessions: Sequence[RecordedSession], number: int, *, count: int) -> list[Round]:
    """Return so many rounds for a session: its own, then those of the sessions beside it in time."""
    rounds = list(sessions[number].rounds)
    for other in (*range(number + 1, len(sessions)), *range(number - 1, -1, -1)):
        if len(rounds) >= count:
            break
        rounds += sessions[other].rounds
    return rounds[:count]


def judge_pairs(
    sessions: Sequence[RecordedSession], *, loss: float, policy: VerdictPolicy, limit_sec: float | None = None
) -> Tally:
    """Return the verdicts of all pairs.

    Args:
        sessions: Sessions in the order of time.
        loss: Loss of today's code, as a cost.
        policy: Tolerance, noise and error rates.
        limit_sec: Time for the rounds of a session; None for no limit.
    """
    decisions = []
    with_rounds = 0
    num_rounds = 0
    seconds = 0.0
    for first, second in pairs_of(sessions):
        later = sessions[second]
        own = rounds_for(sessions, second, count=policy.confirming_rounds)
        durations = [each.took_sec for each in own]
        session = run_session(
            sessions[first].costs,
            sessions=(),
            now=[cost + loss for cost in later.costs],
            rounds=[each.ratio + loss for each in own],
            errors=[each.error for each in own],
            policy=policy,
            durations=durations if limit_sec else (),
            limit_sec=limit_sec or 0.0,
        )
        decisions.append(session.decision)
        with_rounds += session.rounds > 0
        num_rounds += session.rounds
        seconds += sum(durations[: session.rounds])
    return Tally(
        decisions=tuple(decisions),
        with_rounds=with_rounds,
        rounds=num_rounds,
        seconds=seconds,
        num_sessions=len(sessions),
    )


def judge_unchanged(sessions: Sequence[RecordedSession], *, policy: VerdictPolicy) -> Tally:
    """Return the verdicts of all pairs where the tree is the baseline's own: no rounds, and no regression.

    A suspect that is slower than is allowed is INCONCLUSIVE, another passes.
    """
    allowed = cost_of_loss(policy.tolerance_pct(METRIC), metric=METRIC)
    decisions: list[Decision] = []
    for first, second in pairs_of(sessions):
        before = sessions[first].costs
        now = sessions[second].costs
        screen = run_session(before, sessions=(), now=now, rounds=(0.0, 0.0), policy=policy)
        loss = statistics.fmean(now[: screen.launches]) - statistics.fmean(before)
        if screen.screen in {Decision.SAME, Decision.BETTER}:
            decisions.append(screen.screen)
        else:
            decisions.append(Decision.UNDECIDED if loss > allowed else Decision.SAME)
    return Tally(decisions=tuple(decisions), with_rounds=0, rounds=0, seconds=0.0, num_sessions=len(sessions))


def judge_before(sessions: Sequence[RecordedSession], *, loss: float) -> Tally:
    """Return the verdicts of the rule of before: more launches of today, and no rounds."""
    old = load_old_rule()
    assert old is not None
    rule = old.SequentialRule(noise_pct=find_system(_SYSTEM).noise.run_pct)
    tolerance = cost_of_loss(OLD_TOLERANCES_PCT[_SYSTEM], metric=METRIC)
    decisions = []
    for first, second in pairs_of(sessions):
        now = [cost + loss for cost in sessions[second].costs]
        call, _ = old_session(old, sessions[first].costs, now=now, tolerance=tolerance, rule=rule)
        decisions.append(_DECISIONS[call])
    return Tally(decisions=tuple(decisions), with_rounds=0, rounds=0, seconds=0.0, num_sessions=len(sessions))


_DECISIONS = {
    Call.PASSED: Decision.SAME,
    Call.REGRESSED: Decision.WORSE,
    Call.UNDECIDED: Decision.UNDECIDED,
    Call.IMPROVED: Decision.BETTER,
}


def judge_by_peers(sessions: Sequence[RecordedSession], *, loss: float) -> dict[str, Tally]:
    """Return the verdicts of others' rules on the same pairs; launches that are missing repeat the last one."""
    times = []
    for first, second in pairs_of(sessions):
        before = sessions[first].launches
        now = [[step * math.exp(loss) for step in launch] for launch in sessions[second].launches]
        then = [before[min(number, len(before) - 1)] for number in range(MAX_BASELINE_RUNS)]
        today = [now[min(number, len(now) - 1)] for number in range(5)]
        times.append([*then, *today])
    trials = Trials(times=np.array(times), rounds=np.zeros((len(times), 1)))
    question = Question(system=_SYSTEM, policy=policy_of(_SYSTEM))
    tallies = {}
    for name, rule in PEERS.items():
        calls = rule(trials, question).calls.tolist()
        decisions = tuple(_DECISIONS[Call(call)] for call in calls)
        tallies[name] = Tally(decisions=decisions, with_rounds=0, rounds=0, seconds=0.0, num_sessions=len(sessions))
    return tallies


def halves(sessions: Sequence[RecordedSession]) -> dict[str, Sequence[RecordedSession]]:
    """Return the sessions for tuning, and those for the report."""
    middle = len(sessions) // 2
    return {"first half": sessions[:middle], "second half": sessions[middle:]}


def noise_rows(sessions: Sequence[RecordedSession]) -> list[tuple[str, ...]]:
    """Return a row for each half: its sessions, load, and scatter within and between sessions and of rounds."""
    rows: list[tuple[str, ...]] = []
    for name, half in halves(sessions).items():
        launches = [statistics.variance(each.costs) for each in half if len(each.costs) > 1]
        means = [statistics.fmean(each.costs) for each in half]
        by_chance = statistics.fmean(launches) / statistics.fmean(len(each.costs) for each in half)
        between = math.sqrt(max(0.0, statistics.variance(means) - by_chance))
        rounds = []
        ratios = []
        for session in half:
            own = [each.ratio for each in session.rounds]
            ratios += own
            if len(own) > 1:
                rounds.append(statistics.variance(own))
        error = statistics.stdev(ratios) / math.sqrt(len(ratios))
        loads = [each.load for each in half]
        rows.append(
            (
                name,
                str(len(half)),
                str(len(pairs_of(half))),
                f"{min(loads):.1f} to {max(loads):.1f}",
                f"{1e3 * math.exp(min(means)):.0f} to {1e3 * math.exp(max(means)):.0f} ms",
                _scatter_text(launches),
                f"{100.0 * between:.0f}%",
                _scatter_text(rounds),
                f"{100.0 * statistics.fmean(ratios):+.1f}% +- {100.0 * error:.1f}",
            )
        )
    return rows


def _scatter_text(variances: Sequence[float]) -> str:
    """Return the standard deviation of the median session, and the root mean square of all."""
    median = 100.0 * math.sqrt(statistics.median(variances))
    return f"{median:.1f}%, {100.0 * math.sqrt(statistics.fmean(variances)):.1f}%"


_NOISE_HEAD = (
    "sessions",
    "number",
    "pairs",
    "load average",
    "median step of a session",
    "launches scatter by (median, rms)",
    "between sessions",
    "rounds scatter by (median, rms)",
    "mean ratio of rounds",
)


def _tally_row(what: str, loss: str, tally: Tally) -> tuple[str, ...]:
    num_pairs = len(tally.decisions)
    rounds = "-"
    seconds = "-"
    if tally.with_rounds:
        rounds = f"{tally.rounds / tally.with_rounds:.1f}"
        seconds = f"{tally.seconds / tally.with_rounds:.0f}"
    return (
        what,
        loss,
        tally.share(Decision.WORSE),
        tally.share(Decision.SAME, Decision.BETTER),
        tally.share(Decision.UNDECIDED),
        f"{100.0 * tally.with_rounds / num_pairs:.0f}",
        rounds,
        seconds,
    )


_HEAD = ("rule", "loss", "REGRESSED", "PASSED", "INCONCLUSIVE", "with rounds", "rounds", "seconds of rounds")


def verdict_rows(sessions: Sequence[RecordedSession]) -> list[tuple[str, ...]]:
    """Return the rows of a half: ours, in several ways, and the rule of before."""
    policy = policy_of(_SYSTEM)
    limit_sec = DEFAULT_CONFIRM_LIMIT_SEC[_SYSTEM]
    tolerance = cost_of_loss(policy.tolerance_pct(METRIC), metric=METRIC)
    found = _found(policy)
    losses = {
        "none": 0.0,
        f"{loss_of_cost(tolerance, metric=METRIC):.0f}%, allowed": tolerance,
        f"{loss_of_cost(found, metric=METRIC):.0f}%, found": found,
        "steps 40% longer": _INJECTED,
    }
    rows = []
    unchanged = judge_unchanged(sessions, policy=policy)
    rows.append(_tally_row("ours, tree of the baseline", "none", unchanged))
    ways: dict[str, tuple[VerdictPolicy, float | None]] = {
        f"ours, {policy.confirming_rounds} rounds within {limit_sec:g} s": (policy, limit_sec),
        f"ours, {policy.confirming_rounds} rounds within {_LONGER_SEC:g} s": (policy, _LONGER_SEC),
        f"ours, {_MORE_ROUNDS} rounds within {_LONGER_SEC:g} s": (
            replace(policy, confirming_rounds=_MORE_ROUNDS),
            _LONGER_SEC,
        ),
        "ours, stored baseline alone": (replace(policy, confirming_rounds=0), None),
    }
    for name, (way, limit) in ways.items():
        for text, loss in losses.items():
            tally = judge_pairs(sessions, loss=loss, policy=way, limit_sec=limit)
            rows.append(_tally_row(name if not loss else "", text, tally))
    if load_old_rule() is not None:
        old_tolerance_pct = OLD_TOLERANCES_PCT[_SYSTEM]
        for text, loss in (
            ("none", 0.0),
            (f"{old_tolerance_pct:g}%, its tolerance", cost_of_loss(old_tolerance_pct, metric=METRIC)),
            ("steps 40% longer", _INJECTED),
        ):
            name = "ours, before" if text == "none" else ""
            rows.append(_tally_row(name, text, judge_before(sessions, loss=loss)))
    return rows


def peer_rows(sessions: Sequence[RecordedSession]) -> list[tuple[str, ...]]:
    """Return the share that others' rules fail, with no loss and with an injected one."""
    without = judge_by_peers(sessions, loss=0.0)
    injected = judge_by_peers(sessions, loss=_INJECTED)
    rows: list[tuple[str, ...]] = []
    for name, tally in without.items():
        rows.append((name, tally.share(Decision.WORSE), injected[name].share(Decision.WORSE)))
    return rows


def _found(policy: VerdictPolicy) -> float:
    """Return the loss that rounds are expected to find, as a cost."""
    return limits_of((0.0,), sessions=(), policy=policy).found


def render_sessions(paths: Sequence[Path]) -> str:
    """Return the section about recorded sessions."""
    sessions = load_sessions(paths)
    parts = [
        RECORDED_HEADING,
        "One case (llama-tiny under fsdp2) on a shared 2-core machine, a session every two minutes: four launches, and "
        "six rounds of equal code by turns, 12 measured steps a side; made by "
        "[record_sessions.py](record_sessions.py), judged by [judge_sessions.py](judge_sessions.py). Every two "
        "sessions of a half that are at least ten minutes apart are a pair: the launches of the earlier one are the "
        "baseline (one session), those of the later one today's; its rounds decide on what the baseline does not "
        "clear, those beyond six taken from the sessions beside it. Noise and tolerance are the catalog's for `cpu`, "
        "which was tuned on the first half. Percent of pairs; pairs share sessions, so the 95% intervals are those of "
        "as many pairs as there are sessions.",
        markdown_table(_NOISE_HEAD, rows=noise_rows(sessions)),
    ]
    for name, half in halves(sessions).items():
        parts.append(f"### Pairs of the {name}")
        parts.append(markdown_table(_HEAD, rows=verdict_rows(half)))
    parts.append("### Others' rules on the second half")
    parts.append("Tolerance as ours (10%); percent of pairs that fail.")
    parts.append(
        markdown_table(("rule", "no loss", "steps 40% longer"), rows=peer_rows(halves(sessions)["second half"]))
    )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Judge, and print."""
    parser = argparse.ArgumentParser(description="verdicts on pairs of recorded sessions")
    parser.add_argument("files", type=Path, nargs="*", default=[RECORDING], help=f"default {RECORDING.name}")
    arguments = parser.parse_args()
    print(render_sessions(arguments.files))


if __name__ == "__main__":
    main()
