from __future__ import annotations

import json
import sys

import pytest

from pytest_nemoperf.cli.main import main
from tests.integration.conftest import Project
from tests.runs.job_logs import write_megatron_log, write_recipe

PRINTS_A_LOG = """
import pathlib
print(pathlib.Path(__file__).with_name("job.log").read_text(), end="")
"""


def test_the_log_of_a_session_is_measured_as_its_session_measured_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "steps.py").write_text(PRINTS_A_LOG)
    write_megatron_log(project.root / "job.log", step_ms=100.0, num_steps=13, batch=4)
    project.edit("test_speed.py", {'framework="command",': 'framework="command", log_format="megatron",'})
    project.run("--update-baselines").assert_outcomes(passed=1)
    recipe = write_recipe(
        project.root / "recipe.json",
        model="llama-tiny",
        layouts={"cpu": {"gpus": 1}},
        seq_len=64,
        global_batch_size=4,
        precision="fp32",
        framework="command",
        command=[sys.executable, str(project.root / "steps.py")],
    )
    (log,) = project.root.glob(".nemoperf/runs/*/*/run-1/logs/rank0.log")
    words = ["judge", "--log", str(log), "--recipe", str(recipe), "--here"]
    capsys.readouterr()

    assert main([*words, "--baseline", str(project.baseline)]) == 0
    assert "is run 1 of the baseline itself" in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--baseline", str(project.baseline), "--json"]) == 0
    case = json.loads(capsys.readouterr().out)
    (session_run,) = project.stored()["runs"]
    (log_run,) = case["measurement"]["runs"]
    assert {**log_run, "session": ""} == {**session_run, "session": ""}
    assert case["measurement"]["workload"] == project.stored()["workload"]
