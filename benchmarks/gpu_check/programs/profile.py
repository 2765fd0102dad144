"""Profile of a step: its operators sum to the step, and none takes longer than it."""

from __future__ import annotations

import sys
from functools import partial
from math import fsum
from pathlib import Path

from gpu_check.findings import Findings
from gpu_check.programs.forked import free_port, run_forked, tail
from gpu_check.programs.peers import make_plan
from gpu_check.programs.program import Context, run_program
from gpu_check.programs.ranks import rank_environment
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.native.rank import preload
from pytest_nemoperf.native.rank.entry import main
from pytest_nemoperf.records.profile import PROFILE_FILE, Profile
from pytest_nemoperf.records.step import PLAN_FILE
from pytest_nemoperf.runs.profiled import profiled

del preload  # imported for what it imports: the rank is forked from this process

_MOST_SHOWN = 12
_LIMIT_SEC = 80.0
# Medians over a few steps are taken operator by operator, so their sum is that of no single step.
_ALLOWED_PCT = 3.0


def examine(context: Context, findings: Findings) -> None:
    """Run a case once under the profiler, and add up the rows of its profile."""
    folder = context.folder / "run"
    profile = profile_of(context, folder=folder)
    if profile is None:
        findings.problems.append(f"the run under the profiler failed:\n{tail(folder / 'rank0.log')}")
        return
    step_sec = profile.step_time_sec
    seconds = {name: operator.self_sec_per_step for name, operator in profile.operators.items()}
    table = findings.table(f"{profile.case}, {profile.device}", ["operator", "ms a step", "% of the step"])
    for name, sec in sorted(seconds.items(), key=lambda item: -item[1])[:_MOST_SHOWN]:
        table.add(name, f"{sec * 1e3:.2f}", f"{100 * sec / step_sec:.1f}")
    total_sec = fsum(seconds.values())
    table.add(f"sum of all {len(seconds)}", f"{total_sec * 1e3:.2f}", f"{100 * total_sec / step_sec:.1f}")
    # Steps of a busy CPU differ so much that the medians of their operators make none of them.
    sentences = findings.unjudged if context.is_cpu else findings.problems
    sentences.extend(problems_of(profile))


def problems_of(profile: Profile) -> list[str]:
    """Return what is wrong about the rows of a profile."""
    step_sec = profile.step_time_sec
    problems = []
    for name, operator in profile.operators.items():
        if operator.self_sec_per_step > step_sec:
            problems.append(
                f"{name} takes {operator.self_sec_per_step * 1e3:.1f} ms of a step of {step_sec * 1e3:.1f} ms"
            )
    total_sec = fsum(operator.self_sec_per_step for operator in profile.operators.values())
    if abs(total_sec / step_sec - 1) * 100 > _ALLOWED_PCT:
        problems.append(
            f"operators of {profile.case} sum to {total_sec * 1e3:.1f} ms of a step of {step_sec * 1e3:.1f} ms "
            f"(allowed {_ALLOWED_PCT:.0f}% apart)"
        )
    return problems


def profile_of(context: Context, *, folder: Path) -> Profile | None:
    """Run the case's steps under the profiler in a rank of its own, and return the profile; None if it failed.

    No session is needed, so that a busy machine, whose measurements are INVALID, has a profile too.
    """
    folder.mkdir(exist_ok=True)
    (folder / PROFILE_FILE).unlink(missing_ok=True)
    log = folder / "rank0.log"
    log.unlink(missing_ok=True)
    (folder / PLAN_FILE).write_text(to_json(profiled(make_plan(context))), encoding="utf-8")
    environment = rank_environment(0, num_ranks=1, port=free_port(), folder=folder, shares_gpu=False)
    (end,) = run_forked(partial(main, None), environments=[environment], logs=[log], limit_sec=_LIMIT_SEC)
    if end.status != 0:
        return None
    return read_data(Profile, folder / PROFILE_FILE)


if __name__ == "__main__":
    sys.exit(run_program(examine))
