"""Energy: the driver's counter, and joules per token of the suite's cases."""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

from gpu_check.findings import Findings
from gpu_check.programs.program import Context, NotHereError, run_program
from gpu_check.programs.sessions import figure, metric, short_name
from gpu_check.programs.suite import measured_cases

_MJ_PER_J = 1000
_COUNTED_SEC = 1.0  # the counter of a data centre GPU moves every 100 ms or so


def examine(context: Context, findings: Findings) -> None:
    """Read the counter twice, then look at the cases."""
    if not context.is_cpu:
        _check_counter(findings)
    cases = measured_cases(context, stage="suite")
    table = findings.table("Energy of the suite's cases", ["case", "J/token", "tokens/J"])
    without = []
    for case in cases:
        joules = metric(case, "joules_per_token")
        table.add(
            short_name(case["nodeid"]), figure(joules, digits=5), figure(metric(case, "tokens_per_joule"), digits=1)
        )
        if joules is None:
            without.append(short_name(case["nodeid"]))
    if context.is_cpu:
        raise NotHereError("no GPU, so no counter of its driver; a host's own counters are read by the sessions")
    if without:
        findings.problems.append(f"the driver counts energy, but no joules per token in {', '.join(without)}")


def _check_counter(findings: Findings) -> None:
    nvml: Any = importlib.import_module("pynvml")
    nvml.nvmlInit()
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(0)
        first_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        time.sleep(_COUNTED_SEC)
        joules = (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) - first_mj) / _MJ_PER_J
    except nvml.NVMLError as error:
        raise NotHereError(f"the driver has no energy counter for this GPU: {error}") from error
    finally:
        nvml.nvmlShutdown()
    findings.remarks.append(f"idle, the GPU took {joules:.0f} J in {_COUNTED_SEC:.0f} s")
    if joules <= 0:
        findings.problems.append(f"the energy counter stood still for {_COUNTED_SEC:.0f} s")


if __name__ == "__main__":
    sys.exit(run_program(examine))
