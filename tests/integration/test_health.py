"""Real load of another process; one core is shared, so that a single busy process is enough."""

from __future__ import annotations

import pytest

from tests.integration.conftest import Project, has_text

WORKING_STEPS = """
import json, os, pathlib, time
plan = json.loads(pathlib.Path(os.environ["NEMOPERF_PLAN"]).read_text())
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in range(plan["warmup_steps"] + plan["steps"]):
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass
        record = {"step": step, "step_time_sec": 0.1, "tokens": plan["tokens_per_step"], "loss": 6.5,
                  "peak_memory_bytes": 2**30}
        file.write(json.dumps(record) + "\\n")
        file.flush()
"""


@pytest.mark.slow
def test_load_of_others_makes_a_case_invalid_and_names_them(
    project: Project, busy_neighbour: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "steps.py").write_text(WORKING_STEPS)
    project.run().assert_outcomes(passed=1)  # a baseline, while load is allowed
    monkeypatch.setattr("pytest_nemoperf.records.health.MAX_FOREIGN_SHARE", 0.1)

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*run 1 is dropped and launched again: other processes took *",
            "INVALID *",
            "run 1: other processes took *% of the 1 core and left *",
        ]
    )
    assert has_text(result, f"yes (process {busy_neighbour})")
