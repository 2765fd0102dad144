"""Checkpoints that ranks save and load after their steps: every layout's shards, each once, and loaded as saved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pytest_nemoperf.errors import CheckpointError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.native.rank import checkpoint
from pytest_nemoperf.native.rank.checkpoint import time_checkpoint
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.launch_times import CheckpointTimes
from pytest_nemoperf.records.metrics import CHECKPOINT_METRICS
from pytest_nemoperf.runs.checkpoint_folder import checkpoint_bytes
from tests.native.engine import MODEL, Engine, accumulating_plan
from tests.native.tiny import CPU, build, tiny_config, tiny_plan, trainer_of

ALL = tuple(metric.name for metric in CHECKPOINT_METRICS)
MIXTURE = replace(MODEL, name="mixed", moe=MoE(num_experts=4, topk=2, ffn_hidden_size=32))


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """Make this process the only rank."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def trained_plan(folder: Path, **changes: Any) -> Plan:
    plan = tiny_plan(layouts={"cpu": Layout(gpus=1)}, global_batch_size=4, **changes)
    (folder / "saved").mkdir()
    return replace(plan, checkpoint_dir=str(folder / "saved"))


def saving(plan: Plan, folder: Path, *, extra_metrics: tuple[str, ...] = ALL) -> Plan:
    folder.mkdir()
    return replace(plan, extra_metrics=extra_metrics, checkpoint_dir=str(folder))


def test_two_ranks_save_and_load_every_kind_of_shard_once(engine: Engine, tmp_path: Path) -> None:
    layouts = {
        "fsdp": Layout(gpus=2, dp_shard=2),
        "ddp": Layout(gpus=2, dp_replicate=2),
        "tp": Layout(gpus=2, tp=2),
        "pp": Layout(gpus=2, pp=2, vp=1),
        "ep": Layout(gpus=2, dp_shard=2, ep=2),
    }
    plans = {}
    for name, layout in layouts.items():
        plan = accumulating_plan(layout, model=MIXTURE if name == "ep" else MODEL)
        plans[name] = saving(plan, tmp_path / name)
    first = next(iter(plans.values()))

    run_dir = engine.launch(first, entrypoint="tests.native.several:main", plans=plans)

    for name, plan in plans.items():
        times = TorchFramework().read_output(plan, run_dir=run_dir / name).checkpoint
        assert times is not None, name
        for seconds in (times.save_sec, times.load_sec, times.async_wait_sec, times.async_total_sec):
            assert seconds, name
        # Copies of a weight are saved once: a second one of all would make it 2. The rest is a file's overhead for each
        # setting of each weight's optimizer, much of so small a model.
        assert 1.0 <= times.num_bytes / checkpoint_bytes(plan) < 1.9, name
        assert not list((tmp_path / name).iterdir()), name


def test_only_what_is_asked_for_is_timed(alone: None, tmp_path: Path) -> None:
    plan = trained_plan(tmp_path)
    trainer = trainer_of(plan, build(plan))
    trainer.step(0)

    times = time_checkpoint(replace(plan, extra_metrics=("checkpoint_save_sec",)), trainer.trained, device=CPU)

    assert isinstance(times, CheckpointTimes)
    assert times.save_sec
    assert (times.load_sec, times.async_wait_sec, times.async_total_sec) == (None, None, None)
    assert not list((tmp_path / "saved").iterdir())


def test_training_goes_on_as_if_nothing_had_been_saved(alone: None, tmp_path: Path) -> None:
    plan = replace(trained_plan(tmp_path), extra_metrics=ALL)
    losses = []
    for is_saved in (False, True):
        trainer = trainer_of(plan, build(plan))
        trainer.step(0)
        if is_saved:
            time_checkpoint(plan, trainer.trained, device=CPU)
        losses.append([trainer.step(1).loss, trainer.step(2).loss])

    assert losses[0] == losses[1]


def test_tied_embeddings_are_saved_too(alone: None, tmp_path: Path) -> None:
    plan = replace(trained_plan(tmp_path, model=tiny_config(tied_embeddings=True)), extra_metrics=ALL)
    trainer = trainer_of(plan, build(plan))
    trainer.step(0)

    assert time_checkpoint(plan, trainer.trained, device=CPU) is not None


def test_a_load_that_leaves_a_tensor_out_is_an_error(
    alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(trained_plan(tmp_path), extra_metrics=("checkpoint_load_sec",))
    trainer = trainer_of(plan, build(plan))
    trainer.step(0)
    load = checkpoint.__dict__["load"]

    def load_most(states: dict[str, Any], **options: Any) -> None:
        missing = next(key for key in states if key.endswith("exp_avg_sq"))
        rest = {key: value for key, value in states.items() if key != missing}
        load(rest, **options)

    monkeypatch.setattr(checkpoint, "load", load_most)

    with pytest.raises(CheckpointError, match=r"model0\.pp0\.tp0\.state\..*exp_avg_sq is not what was saved"):
        time_checkpoint(plan, trainer.trained, device=CPU)


@pytest.mark.parametrize("asked", ["checkpoint_save_sec", "checkpoint_async_save_sec"])
def test_a_checkpoint_that_cannot_be_saved_is_an_error_of_the_rank(asked: str, alone: None, tmp_path: Path) -> None:
    plan = replace(trained_plan(tmp_path), extra_metrics=(asked,))
    (tmp_path / "saved" / "checkpoint").write_text("in the way of the folder")
    trainer = trainer_of(plan, build(plan))
    trainer.step(0)

    with pytest.raises(CheckpointError, match=r"could not be saved to .*/saved .*: rank 0: FileExistsError: "):
        time_checkpoint(plan, trainer.trained, device=CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.int64], ids=str)
def test_a_digest_sees_a_change_of_a_bit_and_of_an_order(dtype: torch.dtype) -> None:
    tensor = torch.arange(1, 41).to(dtype)
    changed = tensor.clone()
    changed[17] = 3
    swapped = tensor.flip(0)

    assert checkpoint._digest(tensor) == checkpoint._digest(tensor.clone())
    assert checkpoint._digest(tensor) != checkpoint._digest(changed)
    assert checkpoint._digest(tensor) != checkpoint._digest(swapped)
