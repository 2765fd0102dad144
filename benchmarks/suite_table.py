"""Table of the GPU cases of perf_tests/ by system, from dry runs: memory, expected step, one launch of each case.

Usage: suite_table.py [PAGE]: prints it, or writes it between the markers of a page. Runs without a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tables import markdown_table

from pytest_nemoperf.json_codec import read_data
from pytest_nemoperf.report.cells import bytes_text, elapsed_text
from pytest_nemoperf.report.terminal.plans import step_time_text
from pytest_nemoperf.results.dry_run import DRY_RUN_FILE, DryRun

SYSTEMS = ("h100", "h200", "b200", "gb200")
BEGIN, END = "<!-- begin of suite_table.py -->\n", "<!-- end of suite_table.py -->\n"


def main() -> None:
    """Print the table, or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?", help="Markdown file with the two markers")
    page: Path | None = parser.parse_args().page
    dry_runs = {system: dry_run(system) for system in SYSTEMS}
    text = f"{cases_table(dry_runs)}\n\n{launches_table(dry_runs)}\n"
    if page is None:
        sys.stdout.write(text)
        return
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}{text}{END}{after}", encoding="utf-8")


def dry_run(system: str) -> DryRun:
    """Return the results of a dry run of perf_tests/ on a system."""
    with tempfile.TemporaryDirectory() as output:
        options = ["-q", "-p", "no:cacheprovider", "-m", "perf", f"--system={system}", f"--perf-output={output}"]
        argv = [sys.executable, "-m", "pytest", *options, "--perf-dry-run", "perf_tests"]
        subprocess.run(argv, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.DEVNULL)
        return read_data(DryRun, Path(output) / DRY_RUN_FILE)


def cases_table(dry_runs: Mapping[str, DryRun]) -> str:
    """Return a row a case: GPUs, memory of the fullest one, and the expected step on each system."""
    facts: dict[str, tuple[str, str]] = {}
    steps: dict[str, dict[str, str]] = {}
    for system, results in dry_runs.items():
        for case in results.cases:
            price = case.price
            name = case.nodeid.partition("::test_")[2]
            facts[name] = str(price.plan.layout.total_gpus), bytes_text(price.peak_bytes)
            step = "does not fit" if price.is_fitting is False else step_time_text(price)
            steps.setdefault(name, {})[system] = step
    rows = []
    for name, figures in facts.items():
        rows.append([f"`{name}`", *figures, *[steps[name].get(system, "-") for system in dry_runs]])
    return markdown_table(["Case", "GPUs", "Memory", *dry_runs], rows=rows)


def launches_table(dry_runs: Mapping[str, DryRun]) -> str:
    """Return what one launch of each case takes on each system, one after another, by GPUs."""
    rows = []
    sizes: dict[int, None] = {}
    for system, results in dry_runs.items():
        assert results.cost is not None
        times = {}
        for launches in results.cost.launches:
            ends = f"{elapsed_text(launches.low_sec)} to {elapsed_text(launches.high_sec)}"
            times[launches.gpus] = f"{elapsed_text(launches.sec)} ({ends})"
        sizes |= dict.fromkeys(times)
        rows.append([system, *times.values()])
    return markdown_table(["System", *[f"{gpus}-GPU cases" for gpus in sizes]], rows=rows)


if __name__ == "__main__":
    main()
