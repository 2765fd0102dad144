from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecordError
from pytest_nemoperf.frameworks.megatron_lm import MegatronLMFramework
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.layouts.layout import Layout
from tests.builders import make_plan
from tests.frameworks.megatron_files import SCRIPT, YAML, write_text

FRAMEWORK = MegatronLMFramework()
ENV = {"CHECKPOINTS": "/ckpt", "DATA": "/data"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Make the files of Megatron-LM that a launch looks for."""
    root = tmp_path / "Megatron-LM"
    for name in ("pretrain_gpt.py", "pretrain_mamba.py", "mine.py"):
        write_text(root / name, "")
    return root


def command_of(path: Path, *, run_dir: Path, **changes: Any) -> RankCommand:
    run_dir.mkdir(exist_ok=True)
    values: dict[str, Any] = {"env": ENV, "layouts": {"cpu": Layout(gpus=4, dp_shard=4)}, **changes}
    plan = make_plan(framework="megatron_lm", framework_config=str(path), steps=10, warmup_steps=3, **values)
    return FRAMEWORK.command(plan, run_dir=run_dir)


def words_of(path: Path, *, run_dir: Path, **changes: Any) -> list[str]:
    """Return the words of a launch after its change of directory."""
    words = list(command_of(path, run_dir=run_dir, **changes).argv)
    return words[words.index(str(path.parents[1])) + 1 :]


def test_a_file_of_arguments_runs_with_steps_logging_and_checkpoints_of_its_own(checkout: Path, tmp_path: Path) -> None:
    path = write_text(checkout / "recipes" / "x.yaml", YAML)

    command = command_of(path, run_dir=tmp_path / "run")
    words = words_of(path, run_dir=tmp_path / "run")

    assert words[:6] == [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "4", "pretrain_gpt.py"]
    text = " ".join(words)
    assert "--save" not in text
    assert "--data-path /data/tokens" in text
    assert "--train-iters 13" in text
    assert "--train-iters 100" not in text
    assert text.endswith("--lr-decay-iters 100 --log-interval 1 --log-throughput --eval-iters 0")
    assert command.env["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"


def test_a_run_of_samples_stays_one_of_samples(checkout: Path, tmp_path: Path) -> None:
    text = YAML.replace("--train-iters: 100", "--train-samples: 6400\n  --tensorboard-dir: /tb")
    path = write_text(checkout / "recipes" / "x.yaml", text)

    words = " ".join(words_of(path, run_dir=tmp_path / "run", global_batch_size=4))

    assert "--train-samples 52 " in words
    assert "--lr-decay-samples 6400" in words
    assert "--train-iters" not in words
    assert f"--tensorboard-dir {tmp_path}/run/tensorboard" in words


def test_options_follow_as_arguments(checkout: Path, tmp_path: Path) -> None:
    path = write_text(checkout / "recipes" / "x.yaml", YAML)
    options = {"overlap_grad_reduce": True, "sequence-parallel": False, "micro-batch-size": 1, "script": "mine.py"}

    words = words_of(path, run_dir=tmp_path / "run", framework_options=options)

    assert words[5] == "mine.py"
    assert "--sequence-parallel" not in words
    assert "--micro-batch-size 1" in " ".join(words)
    assert "--overlap-grad-reduce" in words


def test_a_hybrid_has_a_script_of_its_own(checkout: Path, tmp_path: Path) -> None:
    text = YAML.replace("--num-layers: 12", "--hybrid-layer-pattern: M*M*\n  --mamba-num-heads: 16")
    path = write_text(checkout / "recipes" / "x.yaml", text)

    assert words_of(path, run_dir=tmp_path / "run")[5] == "pretrain_mamba.py"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        pytest.param({"env": {"DATA": "/data"}}, None, id="a variable of what is left out"),
        pytest.param(
            {"env": {}}, r"x\.yaml needs DATA, which no variable says; give it in the recipe's env", id="data"
        ),
        pytest.param(
            {"framework_options": {"script": "none.py"}},
            r"there is no none\.py in /.*\{'script': \.\.\.\}",
            id="script",
        ),
    ],
)
def test_what_a_launch_needs_is_asked_for(
    checkout: Path, tmp_path: Path, changes: dict[str, Any], told: str | None
) -> None:
    path = write_text(checkout / "recipes" / "x.yaml", YAML)

    if told is None:
        command_of(path, run_dir=tmp_path / "run", **changes)
    else:
        with pytest.raises(PlanError, match=told):
            command_of(path, run_dir=tmp_path / "run", **changes)


def run(command: RankCommand, *, env: Mapping[str, str]) -> None:
    subprocess.run(command.argv, check=True, env={**os.environ, **env, **command.env})


def test_a_script_s_training_gets_what_the_run_has_of_its_own(checkout: Path, tmp_path: Path) -> None:
    note = f'#!/bin/sh\nprintf "%s\\n" "$PWD" "$@" > {tmp_path}/noted\n'
    write_text(tmp_path / "bin" / "torchrun", note).chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    path = write_text(checkout / "examples" / "train.sh", SCRIPT)
    options = {"script_may_run": True, "script_args": ["2"], "overlap-grad-reduce": True, "sequence-parallel": None}

    run(command_of(path, run_dir=tmp_path / "run", framework_options=options, env=env), env={})

    assert (checkout / "examples" / "out" / "finished").exists()
    noted = (tmp_path / "noted").read_text(encoding="utf-8").split("\n")
    text = " ".join(noted)
    assert noted[0] == str(checkout)
    assert "--sequence-parallel" not in text
    assert "--save" not in text
    assert "--tensor-model-parallel-size 2" in text
    assert text.endswith(
        "--train-iters 13 --lr-decay-iters 100 --log-interval 1 --log-throughput --eval-iters 0 --overlap-grad-reduce "
    )


def test_a_training_that_was_started_around_the_wrappers_has_no_output(checkout: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "bin" / "torchrun", "#!/bin/sh\nexit 0\n").chmod(0o755)
    hidden = SCRIPT.replace(
        "torchrun --nproc", f"[ -v NEMOPERF_NOTES ] || set -- {tmp_path}/bin/\n${{1-}}torchrun --nproc"
    )
    path = write_text(checkout / "examples" / "train.sh", hidden)
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    plan = make_plan(
        framework="megatron_lm", framework_config=str(path), framework_options={"script_may_run": True}, env=ENV
    )

    run(FRAMEWORK.command(plan, run_dir=run_dir), env={})

    with pytest.raises(RecordError, match=r"train\.sh started its training around the wrappers that give it the steps"):
        FRAMEWORK.read_output(plan, run_dir=run_dir)


def test_a_file_that_lies_in_no_checkout_can_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_text(tmp_path / "x.yaml", YAML)
    plan = make_plan(framework="megatron_lm", framework_config=str(path))

    assert "lies in no checkout of Megatron-LM (a folder with pretrain_gpt.py)" in str(FRAMEWORK.unsupported(plan))
    script = str(write_text(tmp_path / "train.sh", SCRIPT))
    assert FRAMEWORK.unsupported(replace(plan, framework_config=script)) is None
    assert "give framework_config=..." in str(FRAMEWORK.unsupported(replace(plan, framework_config="")))


def test_its_package_is_asked_for(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    path = write_text(checkout / "recipes" / "x.yaml", YAML)
    plan = make_plan(framework="megatron_lm", framework_config=str(path))

    assert "needs torch, which is not installed beside pytest" in str(FRAMEWORK.unsupported(plan))
    assert FRAMEWORK.unsupported(replace(plan, python=sys.executable)) is None
