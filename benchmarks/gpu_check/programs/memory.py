"""Memory that a dry run foretells beside the peak that the suite measured."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from gpu_check.findings import Findings
from gpu_check.programs.program import ROOT, Context, NotHereError, run_program
from gpu_check.programs.sessions import metric, plugin_options, short_name
from gpu_check.programs.suite import measured_cases

_GIB = 2**30
_ALLOWED_PCT = 2.0  # seven cases on an H100 were within 0.2%


def examine(context: Context, findings: Findings) -> None:
    """Compare the cases that the suite has measured."""
    cases = measured_cases(context, stage="suite")
    if not cases:
        raise NotHereError("stage suite has measured no case; run it first")
    prices = _prices(context, sorted({case["nodeid"] for case in cases}))
    table = findings.table("Peak memory of the fullest rank", ["case", "estimated GiB", "measured GiB", "difference %"])
    for case in cases:
        price = prices.get(case["measurement"]["case"])
        peak_gib = metric(case, "peak_memory_gib")
        if price is None or peak_gib is None:
            findings.remarks.append(f"{short_name(case['nodeid'])} has no estimate or no measured peak")
            continue
        estimated_gib = _fullest_bytes(price) / _GIB
        difference_pct = 100 * (estimated_gib / peak_gib - 1)
        table.add(short_name(case["nodeid"]), f"{estimated_gib:.2f}", f"{peak_gib:.2f}", f"{difference_pct:+.2f}")
        # A compiled model frees and keeps other tensors than the estimate counts.
        is_estimated = not case["plan"]["is_compiled"] and not context.is_cpu
        if is_estimated and abs(difference_pct) > _ALLOWED_PCT:
            findings.problems.append(
                f"{short_name(case['nodeid'])}: {peak_gib:.2f} GiB measured against {estimated_gib:.2f} estimated "
                f"({difference_pct:+.1f}%, allowed {_ALLOWED_PCT:.0f}%)"
            )
    if context.is_cpu:
        raise NotHereError("on a CPU the peak is the process's resident set, imports included")


def _prices(context: Context, nodeids: list[str]) -> dict[str, dict[str, Any]]:
    """Return the prices of a dry run by case."""
    output = context.folder / "dry-run"
    command = [sys.executable, "-m", "pytest", *plugin_options(), "-p", "no:cacheprovider", "-q", "-m", "perf"]
    command += [f"--system={context.system}", "--perf-dry-run", f"--perf-output={output}", *nodeids]
    subprocess.run(command, cwd=ROOT, check=True)
    results = json.loads((output / "dry_run.json").read_text(encoding="utf-8"))
    return {case["price"]["plan"]["case"]: case["price"] for case in results["cases"]}


def _fullest_bytes(price: dict[str, Any]) -> float:
    """Return the largest peak of a training or generating rank."""
    return max(float(max(stage["total"], stage["generating"])) for stage in price["stages"])


if __name__ == "__main__":
    sys.exit(run_program(examine))
