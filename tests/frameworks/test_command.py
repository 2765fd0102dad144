from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.json_codec import to_json_line
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import RunOutput, StepRecord
from tests.builders import make_plan, make_records
from tests.logs.log_texts import BY_HAND, by_hand


def command_plan() -> Plan:
    return make_plan(framework="command", command=("train", "--fast"), env={"LOG": "debug"})


def read(text: str, *, run_dir: Path) -> RunOutput:
    (run_dir / "steps.jsonl").write_text(text, encoding="utf-8")
    return CommandFramework().read_output(command_plan(), run_dir=run_dir)


def line(step: int, **changes: Any) -> str:
    return json.dumps({"step": step, "step_time_sec": 0.5, "tokens": 256, **changes}) + "\n"


def test_the_command_is_started_once_and_told_its_files(tmp_path: Path) -> None:
    command = CommandFramework().command(command_plan(), run_dir=tmp_path)

    assert command.argv == ("train", "--fast")
    assert command.num_processes == 1
    assert command.entrypoint is None
    assert command.env == {
        "LOG": "debug",
        "NEMOPERF_RUN_DIR": str(tmp_path),
        "NEMOPERF_PLAN": f"{tmp_path}/plan.json",
        "NEMOPERF_STEPS": f"{tmp_path}/steps.jsonl",
    }


def test_what_was_set_at_the_launch_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(framework="command", command=("train",), env={"NCCL_ALGO": "Ring"})
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    CommandFramework().command(plan, run_dir=tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")

    environment = read(line(0), run_dir=tmp_path).environment

    assert environment["env.NCCL_ALGO"] == "Ring"
    assert environment["env.OMP_NUM_THREADS"] == "7"


def test_a_plan_with_a_command_is_supported() -> None:
    assert CommandFramework().unsupported(command_plan()) is None


def test_a_plan_without_a_command_is_not_supported() -> None:
    assert CommandFramework().unsupported(make_plan()) == "the plan has no command; give the recipe an argv in command"


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    records = make_records(command_plan())

    output = read("".join(map(to_json_line, records)), run_dir=tmp_path)

    assert output.records == tuple(records)


def test_three_keys_are_enough_for_a_record(tmp_path: Path) -> None:
    output = read(line(0), run_dir=tmp_path)

    assert output.records == (StepRecord(step=0, step_time_sec=0.5, tokens=256),)


def test_a_loss_may_be_nan_so_that_it_can_be_judged(tmp_path: Path) -> None:
    output = read(line(0, loss=float("nan")), run_dir=tmp_path)

    assert str(output.records[0].loss) == "nan"


def test_missing_steps_are_left_to_the_measurement(tmp_path: Path) -> None:
    output = read(line(0) + line(3), run_dir=tmp_path)

    assert [record.step for record in output.records] == [0, 3]


def test_a_last_line_without_a_newline_is_whole_if_it_parses(tmp_path: Path) -> None:
    assert len(read(line(0) + line(1).rstrip("\n"), run_dir=tmp_path).records) == 2


@pytest.mark.parametrize("text", [None, ""], ids=["no file", "empty file"])
def test_no_records_after_exit_code_0_is_an_error(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "steps.jsonl").write_text(text)

    with pytest.raises(RecordError, match=r"exited with 0 but wrote no step records to .*steps\.jsonl; it must"):
        CommandFramework().read_output(command_plan(), run_dir=tmp_path)


BAD_LINES = {
    "torn": (line(1)[:20], "half a line"),
    "not json": ("step 1\n", "not JSON"),
    "empty line": ("\n" + line(1), "not JSON"),
    "no object": ("[1, 2]\n", "is no JSON object"),
    "key missing": ('{"step": 1, "tokens": 256}\n', "lacks the key 'step_time_sec'"),
    "key misspelt": (line(1, tokns=256), "unknown key 'tokns'; did you mean tokens?"),
    "wrong type": (line(1, tokens="many"), '$.tokens is "many"; it must be a whole number'),
    "NaN time": (line(1, step_time_sec=float("nan")), "step_time_sec=nan must be positive and finite"),
    "negative time": (line(1, step_time_sec=-0.5), "step_time_sec=-0.5 must be positive and finite"),
    "infinite phase": (line(1, phases={"forward": float("inf")}), "forward=inf s must be finite"),
    "no tokens": (line(1, tokens=0), "tokens=0 must be >= 1"),
    "no time at all": (
        line(1, step_time_sec=1e-320),
        "step_time_sec=1e-320 must be positive and finite, at least 1e-09",
    ),
    "more tokens than numbers": (line(1, tokens=10**400), "has more than 64 bits; write one JSON object a line"),
    "more time than numbers": (line(1, groups={"g": {"phases": {"a": 1e300}}}), "groups.g.phases.a is beyond 1e+100"),
    "step again": (line(0), "step 0 after step 0; write each step once, in order"),
    "step beyond the plan": (line(8), "step 8, but the plan has 8 steps, counted from 0"),
}


@pytest.mark.parametrize(("text", "reason"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_is_named_with_file_line_and_reason(text: str, reason: str, tmp_path: Path) -> None:
    where = re.escape(f"{tmp_path}/steps.jsonl:2: ")

    with pytest.raises(RecordError, match=f"{where}.*{re.escape(reason)}"):
        read(line(0) + text, run_dir=tmp_path)


def test_the_run_s_directory_and_steps_are_written_into_the_command(tmp_path: Path) -> None:
    words = ("train", "--out={run_dir}/x", "--steps", "{total_steps}", '{"lr": {lr}}', "{}")
    plan = make_plan(framework="command", command=words)

    command = CommandFramework().command(plan, run_dir=tmp_path)

    assert command.argv == ("train", f"--out={tmp_path}/x", "--steps", "8", '{"lr": {lr}}', "{}")


def test_a_log_of_clocks_is_of_one_step_more_whose_end_starts_the_clock(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.JSONL, fields={"end_time_sec": "time"})
    plan = make_plan(framework="command", command=("train", "{total_steps}"), log_format=log_format)

    assert CommandFramework().command(plan, run_dir=tmp_path).argv == ("train", "9")


def test_a_command_per_rank_is_started_for_each(tmp_path: Path) -> None:
    plan = make_plan(framework="command", command=("train",), is_command_per_rank=True)

    assert CommandFramework().command(plan, run_dir=tmp_path).num_processes == 2


def test_a_preset_gives_the_command_the_variables_that_its_log_needs(tmp_path: Path) -> None:
    plan = make_plan(framework="command", command=("train",), log_format="trainer")
    own = make_plan(
        framework="command", command=("train",), log_format="trainer", env={"TENSORBOARD_LOGGING_DIR": "elsewhere"}
    )

    env = CommandFramework().command(plan, run_dir=tmp_path).env
    own_env = CommandFramework().command(own, run_dir=tmp_path).env

    assert env["TENSORBOARD_LOGGING_DIR"] == f"{tmp_path}/tensorboard"
    assert own_env["TENSORBOARD_LOGGING_DIR"] == "elsewhere"


def test_a_log_that_the_recipe_names_is_read(tmp_path: Path) -> None:
    plan = make_plan(framework="command", command=("train",), log_format=BY_HAND)
    CommandFramework().command(plan, run_dir=tmp_path)
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank0.log").write_text(by_hand(range(8)))

    output = CommandFramework().read_output(plan, run_dir=tmp_path)

    assert len(output.records) == 8
    assert output.environment


@pytest.mark.parametrize("num_steps", [1, 7, 8, 20])
def test_records_that_count_from_1_are_told_at_the_first_line(num_steps: int, tmp_path: Path) -> None:
    text = "".join(line(step) for step in range(1, num_steps + 1))

    with pytest.raises(RecordError, match=r"steps\.jsonl:1: the first step is 1; count steps from 0"):
        read(text, run_dir=tmp_path)
