"""The code that logs a step, of torchtitan and of NeMo Automodel, driven without a GPU."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import sys
from datetime import datetime, tzinfo
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from tests.trainers.loose_code import installed_file, take

FLOPS_PER_TOKEN = 4e9
PEAK_GIB = 5.5


class FakeTime:
    """Clock of a writer that is driven faster than a trainer."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def perf_counter(self) -> float:
        return self.now


class ClockedLogger(logging.Logger):
    """Logger whose lines are of that clock."""

    def __init__(self, clock: FakeTime) -> None:
        super().__init__("root")
        self._clock = clock

    def makeRecord(self, *args: Any, **keys: Any) -> logging.LogRecord:  # noqa: N802 (logging's own)
        record = super().makeRecord(*args, **keys)
        record.created = self._clock.now
        record.msecs = self._clock.now % 1 * 1000
        return record


def torchtitan_log(
    seconds: list[float], *, tokens: int, log_freq: int = 1, non_data_parallel_size: int = 2, is_coloured: bool = True
) -> str:
    """Return what torchtitan's MetricsProcessor logs to the console.

    Args:
        seconds: Time of each step.
        tokens: Tokens of a step on one data-parallel rank.
        log_freq: Steps from one line to the next.
        non_data_parallel_size: Ranks that work on the same tokens.
        is_coloured: As by default.
    """
    clock = FakeTime()
    output = StringIO()
    logger = ClockedLogger(clock)
    tools = take(
        installed_file("torchtitan", "torchtitan/tools/logging.py"),
        ["init_logger"],
        using={"logger": logger, "logging": logging, "os": MagicMock(), "sys": SimpleNamespace(stdout=output)},
    )
    tools["init_logger"]()
    utils = take(
        installed_file("torchtitan", "torchtitan/tools/utils.py"),
        ["Color", "NoColor"],
        using={"dataclass": dataclasses.dataclass},
    )

    class Configurable:
        class Config:
            pass

    names = ["MetricsProcessor", "DeviceMemStats"]
    using = {
        "Configurable": Configurable,
        "dataclass": dataclasses.dataclass,
        "logger": logger,
        "time": clock,
        "namedtuple": __import__("collections").namedtuple,
    }
    code = take(installed_file("torchtitan", "torchtitan/components/metrics.py"), names, using=using)
    stats = code["DeviceMemStats"](4.0, 50.0, PEAK_GIB, 68.75, 0, 0)
    metrics = object.__new__(code["MetricsProcessor"])
    metrics.config = SimpleNamespace(log_freq=log_freq)
    metrics.logger = MagicMock()
    metrics.parallel_dims = SimpleNamespace(non_data_parallel_size=non_data_parallel_size)
    metrics.device_memory_monitor = SimpleNamespace(get_peak_stats=lambda: stats, reset_peak_stats=lambda: None)
    metrics.color = utils["Color" if is_coloured else "NoColor"]()
    metrics.gpu_peak_flops = 1e15
    metrics.num_flops_per_token = FLOPS_PER_TOKEN
    metrics.has_quantization = False
    metrics.ntokens_since_last_log = 0
    metrics.data_loading_times = []
    metrics.time_last_log = clock.now
    for step, each in enumerate(seconds, start=1):
        metrics.ntokens_since_last_log += tokens
        metrics.data_loading_times.append(0.001)
        clock.now += each
        if metrics.should_log(step):
            metrics.log(step, 8.0 - step / 10, 9.0, 1.25)
    return output.getvalue()


def _module(name: str, path: Path) -> ModuleType:
    """Return a file as a module that is in no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def automodel_logs(seconds: list[float], *, tokens: int, gpus: int, path: Path) -> str:
    """Write training.jsonl as NeMo Automodel does, and return its console.

    Args:
        seconds: Time of each step.
        tokens: Tokens of a step over all ranks.
        gpus: Ranks.
        path: The file.
    """
    folder = "nemo_automodel/components/loggers"
    metric_logger = _module("automodel_metric_logger", installed_file("nemo-automodel", f"{folder}/metric_logger.py"))
    log_utils = _module("automodel_log_utils", installed_file("nemo-automodel", f"{folder}/log_utils.py"))
    output = StringIO()
    clock = FakeTime()
    console = ClockedLogger(clock)
    handler = logging.StreamHandler(output)
    handler.setFormatter(log_utils.ColorFormatter())
    console.addHandler(handler)

    class Moment:
        @staticmethod
        def now(zone: tzinfo) -> datetime:
            return datetime.fromtimestamp(clock.now, zone)

    metric_logger.datetime = Moment  # type: ignore[attr-defined]  # time passes only where a step takes some
    code = take(
        installed_file("nemo-automodel", "nemo_automodel/recipes/llm/train_ft.py"),
        ["log_train_metrics"],
        using={"logging": console, "torch": MagicMock()},
    )
    recipe = MagicMock()
    recipe.dist_env.is_main = True
    recipe.step_scheduler.is_remote_logging_step = False
    recipe.metric_logger_train = metric_logger.MetricLogger(str(path))
    for step, each in enumerate(seconds):
        clock.now += each
        tps = tokens / each
        values = {
            "loss": 8.0 - step / 10,
            "grad_norm": 1.25,
            "lr": 2e-4,
            "mem": PEAK_GIB,
            "tps": tps,
            "tps_per_gpu": tps / gpus,
            "mfu": None,
            "num_tokens_per_step": tokens,
            "num_label_tokens": tokens - 8,
        }
        code["log_train_metrics"](recipe, metric_logger.MetricsSample(step=step, epoch=0, metrics=values))
    recipe.metric_logger_train.close()
    return output.getvalue()
