"""How often verdicts are wrong, ours and others', on the same traces; writes results.md and results.svg beside itself.

Run: ``make bench-verdicts``, or ``python benchmarks/verdicts/error_rates.py [--quick]``. Takes a few minutes on two
cores. The numbers follow from the seeds: the same versions of numpy and scipy give the same tables.
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
from rates import REPORT_SEED, cells_of
from recorded import load_traces, recorded_cells
from scenarios import SCENARIOS
from settling import settling_rows
from tables_of_rates import render_results

_FOLDER = Path(__file__).parent
_TRIALS = 20_000
_QUICK_TRIALS = 1_000
_RECORDED_SHIFTS = (0.0, 5.0, 10.0, 20.0)


def main() -> None:
    """Draw, judge, count, write."""
    parser = argparse.ArgumentParser(description="error rates of verdict rules over traces with known truth")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK_TRIALS} trials; prints, and writes nothing")
    parser.add_argument("--trials", type=int, default=_TRIALS, help=f"of each scenario (default {_TRIALS})")
    parser.add_argument("--processes", type=int, default=2, help="default 2")
    arguments = parser.parse_args()
    trials = _QUICK_TRIALS if arguments.quick else arguments.trials
    started = time.monotonic()
    with ProcessPoolExecutor(arguments.processes) as pool:
        drift = pool.submit(drift_rows, trials=max(trials // 10, 100), seed=REPORT_SEED)
        found = list(pool.map(partial(cells_of, trials=trials, seed=REPORT_SEED), SCENARIOS))
        rows = drift.result()
    cells = [cell for some in found for cell in some]
    traces = load_traces()
    recorded = [cell for trace in traces for cell in recorded_cells(trace, shifts=_RECORDED_SHIFTS)]
    settling = settling_rows(traces, runs=max(trials // 4, 100), seed=REPORT_SEED)
    interleaved = _interleaved(trials=max(trials // 10, 100))
    text = (
        render_results(cells, drift=rows, traces=traces, recorded=recorded, settling=settling, trials=trials)
        + interleaved
    )
    if arguments.quick:
        print(text)
    else:
        (_FOLDER / "results.md").write_text(text, encoding="utf-8")
        from picture import draw  # matplotlib is heavy, and --quick does without

        draw(cells, path=_FOLDER / "results.svg")
    print(f"{trials} trials of {len(SCENARIOS)} scenarios in {time.monotonic() - started:.0f} s")


def _interleaved(*, trials: int) -> str:
    """Return the section about --perf-ab; empty where no rounds were recorded (record_ab.py)."""
    files = sorted(map(str, (_FOLDER / "traces").glob("ab-*.json")))
    if not files:
        return ""
    command = [sys.executable, str(_FOLDER / "ab_errors.py"), *files, "--trials", str(trials)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    head = "Rounds of `--perf-ab` with the same code on both sides, drawn again with a known slowdown of the new side."
    return f"\n## Side by side\n\n{head}\n\n{found.stdout}"


if __name__ == "__main__":
    main()
