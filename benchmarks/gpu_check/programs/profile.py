"""Profile of a step: its operators sum to the step, and none takes longer than it."""

from __future__ import annotations

import json
import sys
from math import fsum

from gpu_check.findings import Findings
from gpu_check.programs.program import Context, NotHereError, run_program
from gpu_check.programs.sessions import run_session

_BASELINES = "profiles"
_MOST_SHOWN = 12
# Medians over a few steps are taken operator by operator, so their sum is that of no single step.
_ALLOWED_PCT = 3.0


def examine(context: Context, findings: Findings) -> None:
    """Store the case's profile with a baseline of its own, and add up its rows."""
    run_session(
        context, "session", tests=context.tests, options=["--update-baselines", "--perf-profile"], baselines=_BASELINES
    )
    paths = sorted((context.check_folder / _BASELINES).glob("*/profiles/*.json"))
    if not paths:
        raise NotHereError("the session stored no profile; see log.txt")
    for path in paths:
        profile = json.loads(path.read_text(encoding="utf-8"))
        step_sec = profile["step_time_sec"]
        seconds = {name: operator["self_sec_per_step"] for name, operator in profile["operators"].items()}
        table = findings.table(f"{profile['case']}, {profile['device']}", ["operator", "ms a step", "% of the step"])
        for name, sec in sorted(seconds.items(), key=lambda item: -item[1])[:_MOST_SHOWN]:
            table.add(name, f"{sec * 1e3:.2f}", f"{100 * sec / step_sec:.1f}")
        total_sec = fsum(seconds.values())
        table.add(f"sum of all {len(seconds)}", f"{total_sec * 1e3:.2f}", f"{100 * total_sec / step_sec:.1f}")
        if abs(total_sec / step_sec - 1) * 100 > _ALLOWED_PCT:
            findings.problems.append(
                f"operators of {profile['case']} sum to {total_sec * 1e3:.1f} ms of a step of {step_sec * 1e3:.1f} ms "
                f"(allowed {_ALLOWED_PCT:.0f}% apart)"
            )


if __name__ == "__main__":
    sys.exit(run_program(examine))
