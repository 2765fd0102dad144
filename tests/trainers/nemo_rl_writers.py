"""Steps of NeMo RL as its own timer, logger and formulas write them, from a checkout of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from tests.trainers.loose_code import take

NUM_GPUS = 8
NUM_PROMPTS = 4
NUM_GENERATIONS = 8
COLOCATED = {
    "data_processing": (0.25, 0.125),
    "prepare_for_generation/transfer_and_update_weights": (0.75,),
    "prepare_for_generation/total": (1.0,),
    "generation": (4.0,),
    "reward_calculation": (0.125,),
    "logprob_inference_prep": (0.125,),
    "get_logprobs/shard_data": (0.125,),
    "policy_and_reference_logprobs": (1.0,),
    "advantage_calculation": (0.25,),
    "training_prep": (0.25,),
    "policy_training/sharding_data": (0.5,),
    "policy_training": (2.0,),
    "checkpointing": (0.5,),
    "total_step_time": (10.0,),
}
"""Seconds that the timers of a step measured, in the order in which they end; one may run several times."""
ASYNC = {
    "idle/buffer_starvation": (0.5, 0.5),
    "exposed_generation": (0.75, 0.75, 0.5),
    "reward_calculation": (0.125,),
    "policy_and_reference_logprobs": (1.0,),
    "policy_training": (3.0,),
    "weight_sync": (1.0,),
    "idle/refit_bubble": (1.5,),
    "total_step_time": (0.75, 0.75, 6.5),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Event files of a run, and what NeMo RL itself makes of its last step.

    Attributes:
        folder: Of the event files.
        json_file: Those merged.
        performance: Its rates.
        num_prompt_tokens: Tokens of the prompts, over all samples.
        num_response_tokens: Tokens of the responses.
    """

    folder: Path
    json_file: Path
    performance: Mapping[str, float]
    num_prompt_tokens: int
    num_response_tokens: int


class _Config:
    """Configuration with the few parts that the formulas read."""

    def __init__(self, *, is_async: bool) -> None:
        resources = {"num_nodes": 1, "gpus_per_node": NUM_GPUS // 2}
        self.cluster = {"num_nodes": 1, "gpus_per_node": NUM_GPUS}
        self.policy = {
            "generation": {"colocated": {"enabled": not is_async, "resources": resources}},
            "sequence_packing": {"enabled": False},
        }


def write_run(source: Path, folder: Path, *, times: Mapping[str, Sequence[float]], steps: int = 5) -> Written:
    """Write a run's steps with the code of a checkout."""
    timer_code = _module(source / "nemo_rl" / "utils" / "timer.py")
    logger_code = take(
        source / "nemo_rl" / "utils" / "logger.py",
        {"TensorboardLogger"},
        using={"np": np, "torch": torch, "SummaryWriter": SummaryWriter, "LoggerInterface": object},
    )
    formulas = take(source / "nemo_rl" / "algorithms" / "utils.py", {"print_performance_metrics"}, using={"np": np})
    logger = logger_code["TensorboardLogger"]({}, log_dir=str(folder / "tensorboard"))
    random = np.random.default_rng(0)
    is_async = "exposed_generation" in times
    for step in range(1, steps + 1):
        timer = timer_code.Timer()
        for label, parts in times.items():
            for seconds in parts:
                timer.record(label, seconds)
        sums = timer.get_timing_metrics(reduction_op="sum")
        prompts = np.repeat(random.integers(5, 50, NUM_PROMPTS), NUM_GENERATIONS)
        responses = random.integers(20, 200, NUM_PROMPTS * NUM_GENERATIONS)
        rollouts = {
            "mean_gen_tokens_per_sample": torch.tensor(responses).float().mean().item(),
            "truncation_rate": 0.25,
        }
        metrics = {
            "loss": np.array(0.5),
            "grad_norm": np.array(0.25),
            "reward": 0.75,
            "mean_prompt_length": np.mean(prompts).item(),
            "total_num_tokens": np.sum(prompts + responses).item(),
            "token_mult_prob_error": 1.0625,
            **rollouts,
        }
        performance = formulas["print_performance_metrics"](
            {},
            dict(metrics),
            sums,
            _Config(is_async=is_async),
            num_prompts_per_step=NUM_PROMPTS,
            num_generations_per_prompt=NUM_GENERATIONS,
            is_async_rl=is_async,
        )
        for values, prefix in (  # in the order of its training loop; the rollouts are logged twice
            (rollouts, "train"),
            (metrics, "train"),
            (performance, "performance"),
            (sums, "timing/train"),
        ):
            logger.log_metrics(values, step, prefix=prefix)
    logger.writer.close()
    json_file = folder / "metrics.json"
    _module(source / "tests" / "json_dump_tb_logs.py").merge_tb_logs_to_json(str(folder), str(json_file))
    return Written(
        folder=folder / "tensorboard",
        json_file=json_file,
        performance=performance,
        num_prompt_tokens=int(np.sum(prompts)),
        num_response_tokens=int(np.sum(responses)),
    )


def _module(path: Path) -> Any:
    """Return a file of the checkout as a module of its own; it imports nothing else of it."""
    module = ModuleType(path.stem)
    sys.modules.setdefault(path.stem, module)
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), module.__dict__)  # noqa: S102 (code under test)
    return module
