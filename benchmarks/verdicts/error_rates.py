"""Error rates of verdicts, ours and others', on the same trials; writes results.md and results.svg beside itself.

Run: ``make bench-verdicts``, or ``python benchmarks/verdicts/error_rates.py [--quick]``. Takes some four minutes of one
core. The numbers follow from the seeds: the same versions of numpy and scipy give the same tables.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from drift import drift_rows
from judge_sessions import RECORDED_HEADING, RECORDING, render_sessions
from kinds import KINDS_HEADING, render_kinds
from rates import REPORT_SEED, Cell, cells_of, curves_of
from recorded import load_traces
from scenarios import SCENARIOS
from settling import settling_rows
from tables_of_rates import render_results

_FOLDER = Path(__file__).parent
_TRIALS = 10_000
_QUICK_TRIALS = 1_000


def main() -> None:
    """Draw, judge, count, write."""
    parser = argparse.ArgumentParser(description="error rates of verdict rules over sessions with known truth")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_TRIALS} trials; prints, and writes nothing")
    parser.add_argument("--recorded", action="store_true", help="only judge recorded sessions and rounds anew")
    parser.add_argument("--kinds", action="store_true", help="only judge the kinds of cases anew")
    parser.add_argument("--trials", type=int, default=_TRIALS, help=f"of each scenario (default {_TRIALS})")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    arguments = parser.parse_args()
    trials = _QUICK_TRIALS if arguments.quick else arguments.trials
    results = _FOLDER / "results.md"
    started = time.monotonic()
    if arguments.recorded or arguments.kinds:
        simulated, heading, recorded = results.read_text(encoding="utf-8").partition(f"\n{RECORDED_HEADING}\n")
        parts = [simulated, heading.strip() + f"\n{recorded}"]
        if arguments.recorded:
            parts = [simulated, *_recorded(trials=trials)]
        if arguments.kinds:
            rates = simulated.partition(f"\n{KINDS_HEADING}\n")[0]
            kinds = render_kinds(trials=trials, seed=REPORT_SEED, processes=arguments.processes)
            parts[:1] = [rates, kinds]
        results.write_text("\n".join(parts), encoding="utf-8")
        return
    with ProcessPoolExecutor(arguments.processes) as pool:
        drift = pool.submit(drift_rows, trials=max(trials // 10, 100), seed=REPORT_SEED)
        cells = _flat(list(pool.map(partial(cells_of, trials=trials, seed=REPORT_SEED), SCENARIOS)))
        curves = _flat(list(pool.map(partial(curves_of, trials=trials, seed=REPORT_SEED), SCENARIOS)))
        rows = drift.result()
    traces = load_traces()
    settling = settling_rows(traces, runs=max(trials // 4, 100), seed=REPORT_SEED)
    simulated = render_results(cells, curves=curves, drift=rows, traces=traces, settling=settling, trials=trials)
    kinds = render_kinds(trials=trials, seed=REPORT_SEED, processes=arguments.processes)
    text = "\n".join([simulated, kinds, *_recorded(trials=trials)])
    if arguments.quick:
        print(text)
    else:
        results.write_text(text, encoding="utf-8")
        from picture import draw  # matplotlib is heavy, and --quick does without

        draw(curves, path=_FOLDER / "results.svg")
    print(f"{trials} trials of {len(SCENARIOS)} scenarios in {time.monotonic() - started:.0f} s")


def _recorded(*, trials: int) -> list[str]:
    """Return the sections about recorded sessions and recorded rounds, if there are such."""
    parts = []
    if RECORDING.exists():
        parts.append(render_sessions([RECORDING]))
    rounds = _side_by_side(trials=max(trials // 10, 100))
    if rounds:
        parts.append(rounds)
    return parts


def _flat(parts: list[list[Cell]]) -> list[Cell]:
    cells = []
    for part in parts:
        cells += part
    return cells


def _side_by_side(*, trials: int) -> str:
    """Return the section about --perf-ab; empty where no rounds were recorded (record_ab.py)."""
    files = sorted(map(str, (_FOLDER / "traces").glob("ab-*.json")))
    if not files:
        return ""
    command = [sys.executable, str(_FOLDER / "ab_errors.py"), *files, "--trials", str(trials)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    head = "Rounds of `--perf-ab` with the same code on both sides, drawn again with a known slowdown of the new side."
    return f"## Side by side\n\n{head}\n\n{found.stdout}"


if __name__ == "__main__":
    main()
