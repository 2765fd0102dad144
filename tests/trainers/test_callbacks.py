"""Callbacks on the real trainers, in the settings that change what a step is; no pytest session around them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.rl import RL
from tests.builders import make_plan
from tests.integrations.conftest import VARIABLES, PerfRun
from tests.integrations.examples import EXAMPLES, make_model

pytestmark = pytest.mark.trainers

HF = ("--model=tiny", "--output_dir=output", "--use_cpu", "--report_to=none", "--disable_tqdm=true")
TRL = ("--model_name_or_path=tiny", "--output_dir=output", "--use_cpu", "--bf16=false", "--report_to=none")
GROUPS = RL(
    num_prompts_per_step=4,
    num_generations_per_prompt=4,
    prompt_len=16,
    max_response_len=16,
    response_lengths="sampled",
    algorithm="grpo",
)


@pytest.fixture
def run(tmp_path: Path) -> PerfRunOfScript:
    make_model(tmp_path)
    return PerfRunOfScript(tmp_path)


class PerfRunOfScript:
    """A perf run as the framework ``command`` starts it, without a session that judges it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.output = ""

    def start(self, script: str, *options: str, plan: dict[str, Any], num_ranks: int = 1) -> PerfRun:
        """Run a script, given as its text, and return what it leaves."""
        (self.root / "train.py").write_text(script)
        perf_run = PerfRun(self.root, plan=make_plan(**{**WORKLOAD, **plan}))
        env = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        command = [sys.executable]
        if num_ranks > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
        try:
            done = subprocess.run(
                [*command, "train.py", *options],
                cwd=self.root,
                env={**env, **perf_run.env, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
                timeout=300,
            )
        finally:
            self.end_ranks()
        self.output = done.stdout
        assert done.returncode == 0, done.stdout[-3000:]
        return perf_run

    def end_ranks(self) -> None:
        """End the ranks that a script has left behind: they are no children of this process."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("NEMOPERF_STEPS", "").startswith(str(self.root)):
                    process.kill()


def with_lines(script: str, lines: dict[str, str]) -> str:
    """Return an example's text with lines put before some of its own."""
    text = (EXAMPLES / script).read_text(encoding="utf-8")
    for before, line in lines.items():
        assert before in text
        text = text.replace(before, f"{line}\n{before}")
    return text


WORKLOAD = {"seq_len": 128, "global_batch_size": 8, "framework": "command", "command": ("python", "train.py")}
ONE = {"layouts": {"cpu": Layout(gpus=1)}}


def test_a_trainer_that_accumulates_counts_its_tokens_and_saves_nothing(run: PerfRunOfScript) -> None:
    perf_run = run.start(
        with_lines("trainer/train.py", {}),
        *HF,
        "--per_device_train_batch_size=2",
        "--gradient_accumulation_steps=4",
        "--include_num_input_tokens_seen=true",
        "--dataloader_num_workers=2",
        "--save_strategy=steps",
        "--save_steps=2",
        plan=ONE,
    )

    records = perf_run.records()
    assert [record.step for record in records] == list(range(8))
    assert {record.tokens for record in records} == {8 * 128}
    assert all(record.loss is not None and record.grad_norm is not None for record in records)
    assert not list((run.root / "output").glob("checkpoint*"))


def test_two_ranks_of_a_trainer_end_together_and_one_writes(run: PerfRunOfScript) -> None:
    # gloo's threads, which a Trainer leaves to the end of its process, abort or hang there now and then, in any script
    leave = "    trainer.train()\n    __import__('os')._exit(0)\n"
    perf_run = run.start(
        with_lines("trainer/train.py", {}).replace("    trainer.train()\n", leave),
        *HF,
        "--per_device_train_batch_size=4",
        "--include_num_input_tokens_seen=true",
        plan={"layouts": {"cpu": Layout(gpus=2, dp_replicate=2)}},
        num_ranks=2,
    )

    assert {record.tokens for record in perf_run.records()} == {8 * 128}
    assert len(perf_run.records()) == 8


def test_another_batch_than_the_recipes_is_told_before_the_first_step(run: PerfRunOfScript) -> None:
    with pytest.raises(AssertionError, match=r"trains 4 sequences an update .* recipe says global_batch_size=8"):
        run.start(with_lines("trainer/train.py", {}), *HF, "--per_device_train_batch_size=4", plan=ONE)


def test_sequences_of_sft_have_their_own_lengths(run: PerfRunOfScript) -> None:
    script = with_lines(
        "unchanged/trl_sft.py",
        {
            "from datasets": "from pytest_nemoperf.integrations import TrainerSteps",
            "    trainer.train()": "    trainer.add_callback(TrainerSteps())",
        },
    )

    perf_run = run.start(script, *TRL, "--per_device_train_batch_size=8", plan={**ONE, "has_varying_lengths": True})

    tokens = [record.tokens for record in perf_run.records()]
    assert len(tokens) == 8
    assert len(set(tokens)) > 1
    assert all(8 * 64 <= number <= 8 * 128 for number in tokens)  # texts of 64 to 127 words


def test_a_generation_of_grpo_with_its_updates_is_a_step(run: PerfRunOfScript) -> None:
    perf_run = run.start(
        with_lines("trl_grpo/train.py", {}),
        *TRL,
        "--per_device_train_batch_size=4",
        "--gradient_accumulation_steps=2",
        "--steps_per_generation=4",
        "--num_iterations=2",
        "--num_generations=4",
        "--max_completion_length=16",
        "--max_steps=100",
        plan={**ONE, "rl": GROUPS},
    )

    records = perf_run.records()
    assert len(records) == 8
    for record in records:
        assert record.rollout is not None
        assert record.rollout.num_samples == 16
        assert record.tokens == 16 * 16 + record.rollout.num_response_tokens
    assert "32/100" in run.output  # 8 generations with 2 x 2 updates
    assert "33/100" not in run.output


def test_lightning_accumulates_validates_and_stops_where_it_would_go_on(run: PerfRunOfScript) -> None:
    script = with_lines(
        "lightning/train.py",
        {
            "        enable_checkpointing": "        accumulate_grad_batches=2, min_epochs=3, val_check_interval=4,",
            "    def configure_optimizers": "    def validation_step(self, batch, batch_index):\n        pass\n",
        },
    ).replace(
        "tokens), batch_size=given.batch_size))", "tokens), batch_size=4), DataLoader(TensorDataset(tokens[:8])))"
    )

    perf_run = run.start(script, "--model=tiny", "--output-dir=output", "--max-steps=1000", plan=ONE)

    records = perf_run.records()
    assert [record.step for record in records] == list(range(8))
    assert all(record.loss is not None and 5 < record.loss < 8 for record in records)  # a mean, not a half or a sum


def test_a_loop_with_workers_of_either_kind_is_written_once(run: PerfRunOfScript) -> None:
    for context in ("fork", "spawn"):
        script = (EXAMPLES / "plain_loop" / "train.py").read_text(encoding="utf-8")
        script = script.replace("shuffle=True", f"shuffle=True, num_workers=2, multiprocessing_context={context!r}")
        perf_run = run.start(script, "--model=tiny", plan=ONE)

        assert len(perf_run.records()) == 8
        perf_run.steps_path.unlink()
