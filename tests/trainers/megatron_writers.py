"""The function that logs an iteration, of Megatron-LM and of Megatron-Bridge, driven without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from tests.trainers.loose_code import installed_file, take

GPUS = 8
BATCH = 16
FLOPS_PER_STEP = 1.6e14
PEAK_BYTES = 5 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One iteration that is logged."""

    seconds: float
    loss: float = 8.5
    is_skipped: bool = False


class Clock:
    """Clock of the lines, and their timer of the interval."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC)
        self.since_log = 0.0

    def wait(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)
        self.since_log += seconds

    def now(self) -> datetime:
        return self.moment

    def __call__(self, *_: object, **__: object) -> Clock:
        return self

    def elapsed(self, *, reset: bool = True, **_: object) -> float:
        seconds = self.since_log
        if reset:
            self.since_log = 0.0
        return seconds

    def log(self, *_: object, **__: object) -> None:
        pass


def fake_torch() -> SimpleNamespace:
    stats = {"allocated_bytes.all.current": 3 * 2**30, "allocated_bytes.all.peak": PEAK_BYTES, "num_alloc_retries": 0}
    cuda = SimpleNamespace(
        memory_allocated=lambda: 3 * 2**30,
        max_memory_allocated=lambda: PEAK_BYTES,
        memory_reserved=lambda: 6 * 2**30,
        max_memory_reserved=lambda: 7 * 2**30,
        memory_stats=lambda: stats,
    )
    distributed = SimpleNamespace(get_rank=lambda *_, **__: 0, get_backend=lambda: "nccl")
    return SimpleNamespace(
        tensor=lambda value, **_: torch.tensor(value), float=torch.float, cuda=cuda, distributed=distributed
    )


@contextmanager
def captured() -> Iterator[StringIO]:
    with redirect_stdout(StringIO()) as output:
        yield output


def megatron_lm_log(source: Path, iterations: list[Iteration], *, log_interval: int = 1) -> str:
    """Return what Megatron-LM's training_log prints; ``source`` is a checkout of it."""
    args = MagicMock()
    values = {
        "timing_log_level": 0,
        "perform_rl_step": False,
        "micro_batch_size": 2,
        "data_parallel_size": 4,
        "gtp_weight_remat_size": 1,
        "world_size": GPUS,
        "seq_length": 128,
        "skipped_train_samples": 0,
        "log_interval": log_interval,
        "num_experts": None,
        "mtp_num_layers": None,
        "dsa_indexer_loss_coeff": None,
        "train_iters": len(iterations),
        "log_throughput": True,
        "log_energy": False,
        "log_timers_to_tensorboard": False,
        "rl_use_sequence_packing": False,
        "log_memory_interval": log_interval,
        "record_memory_history": False,
        "log_device_memory_used": False,
        "log_max_attention_logit": False,
    }
    for name, value in values.items():
        setattr(args, name, value)
    clock = Clock()
    using = {
        "torch": fake_torch(),
        "datetime": clock,
        "get_args": lambda: args,
        "get_timers": lambda: clock,
        "get_tensorboard_writer": lambda: None,
        "get_wandb_writer": lambda: None,
        "get_num_microbatches": lambda: 2,
        "get_loaded_iteration": lambda: 0,
        "get_telemetry": lambda: None,
        "get_pg_rank": lambda _: 0,
        "has_rl_utils": False,
        "is_hybrid_model": lambda _: False,
        "mpu": SimpleNamespace(get_data_parallel_rank=lambda: 0),
        "num_floating_point_operations": lambda *_, **__: FLOPS_PER_STEP,
        "print_rank_last": print,
        "reduce_max_stat_across_model_parallel_group": lambda value, **_: value,
    }
    using = take(source / "megatron/training/utils/common_utils.py", ["report_memory"], using=using)
    training_log = take(source / "megatron/training/training.py", ["training_log"], using=using)["training_log"]
    totals: dict[str, Any] = {}
    flag = True
    with captured() as output:
        for number, iteration in enumerate(iterations, start=1):
            clock.wait(iteration.seconds)
            args.consumed_train_samples = number * BATCH
            flag = training_log(
                {"lm loss": torch.tensor([iteration.loss])},
                totals,
                1e-4,
                number,
                1.0,
                flag,
                int(iteration.is_skipped),
                None if iteration.is_skipped else 1.5,
                None,
                None,
                None,
                is_first_iteration=number == 1,
            )
    return output.getvalue()


def megatron_bridge_log(iterations: list[Iteration], *, log_interval: int = 1) -> str:
    """Return what the training_log of the installed Megatron-Bridge prints."""
    config = MagicMock()
    config.logger.log_interval = log_interval
    config.logger.log_throughput = True
    config.logger.log_throughput_to_tensorboard = False
    config.logger.log_timers_to_tensorboard = False
    config.logger.memory_keys = None
    config.logger.timing_log_level = 0
    config.logger.log_l2_norm_grad_to_tensorboard = False
    config.train.train_iters = len(iterations)
    config.train.micro_batch_size = 2
    config.data_parallel_size = 4
    config.model.num_moe_experts = None
    config.model.mtp_num_layers = None
    config.profiling = None
    clock = Clock()
    state = MagicMock()
    state.timers = clock
    state.tensorboard_logger = None
    state.wandb_logger = None
    state.mlflow_logger = None
    state.energy_monitor = None
    state.train_state.skipped_train_samples = 0
    using = {
        "torch": fake_torch(),
        "math": __import__("math"),
        "datetime": clock,
        "get_num_microbatches": lambda: 2,
        "get_world_size_safe": lambda: GPUS,
        "num_floating_point_operations": lambda *_, **__: FLOPS_PER_STEP,
        "print_rank_0": print,
        "print_rank_last": print,
        "reduce_max_stat_across_model_parallel_group": lambda value, **_: value,
    }
    names = ["training_log", "report_memory", "MEMORY_KEYS"]
    path = installed_file("megatron-bridge", "megatron/bridge/training/utils/train_utils.py")
    training_log = take(path, names, using=using)["training_log"]
    totals: dict[str, Any] = {}
    flag = True
    with captured() as output:
        for number, iteration in enumerate(iterations, start=1):
            clock.wait(iteration.seconds)
            state.train_state.step = number
            state.train_state.consumed_train_samples = number * BATCH
            flag = training_log(
                {"lm loss": torch.tensor([iteration.loss])},
                totals,
                1e-4,
                None,
                1.0,
                flag,
                int(iteration.is_skipped),
                None if iteration.is_skipped else 1.5,
                None,
                None,
                config,
                state,
                [],
                [],
            )
    return output.getvalue()
