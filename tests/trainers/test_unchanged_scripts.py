"""Real runs of scripts that know nothing of this plugin, measured through their logs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.logged import context_of
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, StepRecord

pytestmark = pytest.mark.trainers

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CASES = {
    "trainer": "pretrain-tiny-*-mbs1",
    "sft": "*-sft",
    "grpo": "grpo-*-sampled",
    "console": "grpo-*-console",
    "lightning": "*-lightning",
    "lightning-csv": "*-lightning-csv",
}
ON_A_BUSY_MACHINE = """
from pytest_nemoperf.records import health

health.MAX_FOREIGN_SHARE = 2.0  # other tests may run; no speed is asserted here
"""
PROMPT_TOKENS = 32 * 16


class Run:
    """One measured run of a script."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = from_json(Plan, (folder / PLAN_FILE).read_bytes(), subject=PLAN_FILE)
        self.records = read_step_records(folder / STEPS_FILE, total_steps=self.plan.total_steps)

    @property
    def event_file(self) -> Path:
        (file,) = self.folder.rglob("*tfevents*")
        return file

    @property
    def printed(self) -> list[dict[str, str]]:
        """Dicts that the trainer printed, one a step."""
        lines = (self.folder / "logs" / "rank0.log").read_text().splitlines()
        rows = [ast.literal_eval(line[line.index("{'") :]) for line in lines if "{'" in line]
        return [row for row in rows if "loss" in row]

    def scalars(self, tag: str) -> list[Any]:
        """Events of a tag as TensorBoard itself reads them."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        accumulator = EventAccumulator(str(self.event_file), size_guidance={"scalars": 0})
        accumulator.Reload()
        events: list[Any] = accumulator.Scalars(tag)
        return events

    def read(self, path: Path) -> tuple[StepRecord, ...]:
        """Read another file as this run's log."""
        return read_log(
            [path], log_format=self.plan.log_format, context=context_of(self.plan, log_format=self.plan.log_format)
        ).records


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, their runs in .nemoperf."""
    root = tmp_path_factory.mktemp("project")
    for script in (EXAMPLES / "unchanged").glob("*.py"):
        shutil.copy(script, root)
    (root / "conftest.py").write_text(ON_A_BUSY_MACHINE)
    (root / "pytest.ini").write_text("[pytest]\nperf_runs = 1\nperf_budget = 0\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1"}

    def python(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, *words], cwd=root, env=env, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr

    python(str(EXAMPLES / "tiny_model.py"), "tiny")
    python("-m", "pytest", "-m", "perf", "--system=cpu", "--perf-yardstick=off")
    return root


@pytest.fixture(scope="module")
def run_of(project: Path) -> Callable[[str], Run]:
    def find(name: str) -> Run:
        (case,) = (project / ".nemoperf" / "runs").glob(f"*/{CASES[name]}")
        return Run(max(folder for folder in case.iterdir() if folder.is_dir()))

    return find


@pytest.mark.parametrize("name", CASES)
def test_every_step_has_a_time_and_its_tokens_and_nothing_that_the_log_does_not_tell(
    run_of: Callable[[str], Run], name: str
) -> None:
    run = run_of(name)

    assert len(run.records) == 13
    for record in run.records:
        assert 0 < record.tokens <= run.plan.tokens_per_step
        assert record.loss is not None
        assert (record.phases, record.peak_memory_bytes, record.flops) == ({}, None, None)


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        pytest.param("trainer", "train/loss", id="trainer"),
        pytest.param("sft", "train/loss", id="sft"),
        pytest.param("grpo", "train/loss", id="grpo"),
        pytest.param("lightning", "train_loss", id="lightning"),
    ],
)
def test_steps_are_as_tensorboard_reads_them(run_of: Callable[[str], Run], name: str, tag: str) -> None:
    run = run_of(name)

    events = run.scalars(tag)

    assert [record.loss for record in run.records] == [event.value for event in events]
    times = [later.wall_time - earlier.wall_time for earlier, later in pairwise(events)]
    assert [record.step_time_sec for record in run.records[1:]] == pytest.approx(times)


def test_the_trainer_has_all_tokens_of_its_batches(run_of: Callable[[str], Run]) -> None:
    run = run_of("trainer")

    assert {record.tokens for record in run.records} == {8 * 128}
    assert [record.grad_norm for record in run.records] == [event.value for event in run.scalars("train/grad_norm")]


def test_fine_tuning_has_the_tokens_of_its_texts(run_of: Callable[[str], Run]) -> None:
    run = run_of("sft")

    totals = [round(event.value) for event in run.scalars("train/num_tokens")]

    assert [record.tokens for record in run.records] == [now - then for then, now in pairwise([0, *totals])]
    assert len({record.tokens for record in run.records}) > 1


@pytest.mark.parametrize("name", ["grpo", "console"])
def test_grpo_has_every_token_of_its_responses(run_of: Callable[[str], Run], name: str) -> None:
    run = run_of(name)
    means = [float(row["completions/mean_length"]) for row in run.printed]
    if name == "grpo":
        means = [event.value for event in run.scalars("train/completions/mean_length")]

    for record, mean in zip(run.records, means, strict=True):
        rollout = record.rollout
        assert rollout is not None
        assert rollout.num_samples == 32
        assert rollout.num_response_tokens == round(32 * mean)
        # The console's totals are rounded.
        assert record.tokens - rollout.num_response_tokens == pytest.approx(PROMPT_TOKENS, abs=name == "console")
        assert rollout.reward_mean is not None
    assert len({record.tokens for record in run.records}) > 1  # some responses ended early


def test_both_logs_of_one_run_tell_the_same(run_of: Callable[[str], Run]) -> None:
    run = run_of("grpo")

    printed = read_log(
        [run.folder / "logs" / "rank0.log"],
        log_format="trl_console",
        context=context_of(run.plan, log_format="trl_console"),
    ).records

    for mine, other in zip(printed, run.records, strict=True):
        assert mine.rollout is not None
        assert other.rollout is not None
        assert mine.rollout.num_response_tokens == other.rollout.num_response_tokens
        assert mine.tokens == pytest.approx(other.tokens, abs=1)
        assert mine.loss == pytest.approx(other.loss, rel=1e-3)


def read_or_told(run: Run, path: Path) -> tuple[StepRecord, ...] | None:
    """Read a damaged log; None if the error names it."""
    complaint = ""
    try:
        return run.read(path)
    except RecordError as error:
        complaint = str(error)
    assert str(path) in complaint
    return None


@pytest.mark.parametrize("name", ["trainer", "sft", "grpo", "lightning"])
def test_real_event_files_with_damage_are_read_in_part_or_told(
    run_of: Callable[[str], Run], tmp_path: Path, name: str
) -> None:
    run = run_of(name)
    data = run.event_file.read_bytes()
    path = tmp_path / run.event_file.name
    whole = run.read(run.event_file)

    @given(place=st.integers(0, len(data) - 1), bit=st.integers(-1, 7))
    def damage(place: int, bit: int) -> None:
        damaged = data[:place]
        if bit >= 0:
            damaged += bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        path.write_bytes(damaged)
        records = read_or_told(run, path)
        if records is None:
            return
        assert bit < 0
        assert [record.step_time_sec for record in records] == [
            record.step_time_sec for record in whole[: len(records)]
        ]

    damage()


def test_real_consoles_with_damage_are_read_in_part_or_told(run_of: Callable[[str], Run], tmp_path: Path) -> None:
    run = run_of("console")
    data = (run.folder / "logs" / "rank0.log").read_bytes()
    path = tmp_path / "rank0.log"

    @given(place=st.integers(0, len(data)), lost=st.integers(0, 400), noise=st.binary(max_size=20))
    def damage(place: int, lost: int, noise: bytes) -> None:
        path.write_bytes(data[:place] + noise + data[place + lost :])
        records = read_or_told(run, path)
        assert records is None or len(records) <= len(run.records)

    damage()


def test_two_runs_in_one_folder_are_told(run_of: Callable[[str], Run], tmp_path: Path) -> None:
    for name in ("trainer", "sft"):
        shutil.copy(run_of(name).event_file, tmp_path)

    with pytest.raises(RecordError, match="two runs or two ranks wrote into one folder"):
        run_of("trainer").read(tmp_path)
