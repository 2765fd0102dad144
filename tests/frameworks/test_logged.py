from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.launch import note_launch
from pytest_nemoperf.frameworks.logged import context_of, log_pattern, read_logged_output, tail_of_log
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import make_plan, make_rl_plan
from tests.logs.log_texts import BY_HAND, by_hand

COMMAND = RankCommand(argv=("train",), num_processes=1)
CLOCK = LogFormat(kind=LogKind.JSONL, fields={"end_time_sec": "time"})


def plan_of(**changes: Any) -> Plan:
    """Return a plan of 2 + 6 steps whose log is its own output."""
    values: dict[str, Any] = {"framework": "command", "command": ("train",), "log_format": BY_HAND}
    return make_plan(**{**values, **changes})


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run directory with an empty log, beside the working directory."""
    (tmp_path / "run" / "logs").mkdir(parents=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "run"


def output_of(run_dir: Path, text: str, *, rank: int = 0) -> None:
    (run_dir / "logs" / f"rank{rank}.log").write_text(text)


def test_the_own_output_is_read_and_kept_as_step_records(run_dir: Path) -> None:
    plan = plan_of()
    note_launch(COMMAND, run_dir=run_dir)
    output_of(run_dir, by_hand(range(8)))

    output = read_logged_output(plan, run_dir=run_dir)

    assert [record.step for record in output.records] == list(range(8))
    assert {record.tokens for record in output.records} == {plan.tokens_per_step}
    output_of(run_dir, "")
    assert read_logged_output(plan, run_dir=run_dir) == output


def test_a_framework_may_name_another_log_than_the_plan(run_dir: Path) -> None:
    (run_dir / "own.jsonl").write_text("".join(f'{{"n": {step}, "t": 0.5}}\n' for step in range(8)))
    log_format = LogFormat(kind=LogKind.JSONL, fields={"step": "n", "step_time_sec": "t"})

    output = read_logged_output(
        plan_of(log_format=""), run_dir=run_dir, log_format=log_format, log_file="{run_dir}/own.jsonl"
    )

    assert len(output.records) == 8


def test_the_ranks_of_a_command_per_rank_may_each_be_the_one_that_logs(run_dir: Path) -> None:
    output_of(run_dir, "starting\n", rank=0)
    output_of(run_dir, by_hand(range(8)), rank=1)

    output = read_logged_output(plan_of(is_command_per_rank=True), run_dir=run_dir)

    assert len(output.records) == 8


def test_a_file_beside_the_command_is_read_from_where_this_run_began(run_dir: Path) -> None:
    plan = plan_of(log_file="train.log")
    path = Path.cwd() / "train.log"
    path.write_text(by_hand(range(8)))
    note_launch(COMMAND, run_dir=run_dir, log_file="train.log")
    with path.open("a") as file:
        file.write(by_hand(range(8), seconds=0.75))

    output = read_logged_output(plan, run_dir=run_dir)

    assert {record.step_time_sec for record in output.records} == {0.75}


def test_a_step_that_only_starts_the_clock_is_no_record(run_dir: Path) -> None:
    output_of(run_dir, "".join(f'{{"time": {step / 2}}}\n' for step in range(9)))

    output = read_logged_output(plan_of(log_format=CLOCK), run_dir=run_dir)

    assert [(record.step, record.step_time_sec) for record in output.records] == [(step, 0.5) for step in range(8)]


def test_a_first_step_beyond_the_plan_that_has_a_time_all_the_same_is_left_out(run_dir: Path) -> None:
    log_format = LogFormat(kind=LogKind.JSONL, fields={"start_time_sec": "start", "end_time_sec": "time"})
    lines = ['{"start": 0.0, "time": 3.0}\n', *(f'{{"time": {3 + step / 2}}}\n' for step in range(1, 9))]
    output_of(run_dir, "".join(lines))

    output = read_logged_output(plan_of(log_format=log_format), run_dir=run_dir)

    assert [(record.step, record.step_time_sec) for record in output.records] == [(step, 0.5) for step in range(8)]


COUNTS = {
    "too few": (
        by_hand(range(3, 8)),
        "has 5 of the plan's 8 steps (2 warm-up and 6 measured), the first is its step 3; let the program run as many",
    ),
    "too many": (
        by_hand(range(12)),
        "has 12 steps and the plan only 8 (2 warm-up and 6 measured); give the recipe steps=10",
    ),
    "every fifth": (
        by_hand(range(0, 40, 5)),
        "has a line every 5 steps, and a verdict needs each step; let the program",
    ),
    "last one cut": (
        by_hand(range(8))[:-3],
        "rank0.log:8: the last line, 'step 7: loss 8.1250, took 0.5', is not finished",
    ),
}


@pytest.mark.parametrize(("text", "reason"), COUNTS.values(), ids=COUNTS.keys())
def test_a_log_that_does_not_tell_each_step_of_the_plan_is_an_error(text: str, reason: str, run_dir: Path) -> None:
    output_of(run_dir, text)

    with pytest.raises(RecordError, match=re.escape(reason)):
        read_logged_output(plan_of(), run_dir=run_dir)

    assert not (run_dir / "steps.jsonl").exists()


def test_a_preset_says_how_each_step_is_logged(run_dir: Path) -> None:
    (run_dir / "logs" / "rank0.log").unlink(missing_ok=True)

    with pytest.raises(
        RecordError, match=r"exited with 0, but there is no file .*rank0\.log; .*; pass --log-interval 1"
    ):
        read_logged_output(plan_of(log_format="megatron"), run_dir=run_dir)


def test_a_file_of_an_earlier_run_is_none_of_this(run_dir: Path) -> None:
    path = Path.cwd() / "train.log"
    path.write_text(by_hand(range(8)))
    plan = plan_of(log_file="train.log")
    note_launch(COMMAND, run_dir=run_dir, log_file="train.log")

    with pytest.raises(RecordError, match=r"did not write its log: .*train\.log is as it was before the launch"):
        read_logged_output(plan, run_dir=run_dir)


def test_a_plan_is_what_its_log_is_read_against() -> None:
    plan = plan_of()

    context = context_of(plan, log_format="trl")

    assert (context.num_gpus, context.tokens_per_step, context.seq_len) == (2, 256, 64)
    assert (context.has_exact_tokens, context.is_rl, context.warmup_steps) == (True, False, 2)
    assert context.flops_per_token == plan.flops_per_token


def test_tokens_of_varying_lengths_are_not_exact() -> None:
    assert not context_of(plan_of(has_varying_lengths=True), log_format="trl").has_exact_tokens


def test_flops_of_reinforcement_learning_are_no_yardstick_of_its_log() -> None:
    context = context_of(make_rl_plan(), log_format="trl")

    assert (context.is_rl, context.flops_per_token, context.num_samples) == (True, None, 8)


PATTERNS = [
    ({}, "{run_dir}/logs/rank0.log"),
    ({"is_command_per_rank": True}, "{run_dir}/logs/rank*.log"),
    ({"log_file": "train.log"}, "train.log"),
    ({"log_format": "automodel"}, "checkpoints/training.jsonl"),
    ({"log_format": "automodel", "log_file": "x.jsonl"}, "x.jsonl"),
]


@pytest.mark.parametrize(("changes", "pattern"), PATTERNS)
def test_the_log_is_the_recipe_s_or_the_preset_s_or_the_own_output(changes: dict[str, Any], pattern: str) -> None:
    plan = plan_of(**changes)

    assert log_pattern(plan, log_format=plan.log_format, log_file=plan.log_file) == pattern


def test_the_tail_of_a_log_waits_for_the_file(run_dir: Path) -> None:
    tail = tail_of_log(plan_of(), framework=CommandFramework(), run_dir=run_dir)
    assert tail is not None
    assert tail.poll() == []

    output_of(run_dir, by_hand(range(2)))

    assert [progress.step for progress in tail.poll()] == [0, 1]
