"""Ranks of a reinforcement learning run that fail at a given place. Entrypoints of the warm server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch

from pytest_nemoperf.native.parallel.refit import Refit
from pytest_nemoperf.native.rank import entry
from pytest_nemoperf.native.rl import collect
from pytest_nemoperf.native.rl.collect import Collector
from pytest_nemoperf.native.rl.generate.generation import NativeGenerator
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Request
from pytest_nemoperf.native.rl.learn.policy_update import PolicyUpdate
from pytest_nemoperf.native.rl.learn.train_model import TrainModel
from pytest_nemoperf.native.rl.loop import GeneratingRank

LAST_STEP = 2
NUM_SAMPLES = 16  # of a step of rl_plan


def raises_while_generating() -> None:
    _failing(NativeGenerator, "generate", on_rank=1, call=LAST_STEP, failure=_raise)


def is_killed_while_generating() -> None:
    _failing(NativeGenerator, "generate", on_rank=1, call=LAST_STEP, failure=_kill)


def raises_while_scoring() -> None:
    _failing(collect, "reward_of", on_rank=1, call=LAST_STEP * NUM_SAMPLES, failure=_raise)


def raises_in_logprobs() -> None:
    _failing(TrainModel, "logprobs", on_rank=0, call=LAST_STEP, failure=_raise)


def raises_in_reference_logprobs() -> None:
    _failing(TrainModel, "logprobs", on_rank=0, call=LAST_STEP, failure=_raise, where=_is_reference)


def raises_in_values() -> None:
    _failing(TrainModel, "values", on_rank=0, call=LAST_STEP, failure=_raise)


def is_killed_as_second_that_trains() -> None:
    _failing(TrainModel, "update", on_rank=1, call=LAST_STEP, failure=_kill)


def is_killed_as_second_that_generates() -> None:
    _failing(NativeGenerator, "generate", on_rank=3, call=LAST_STEP, failure=_kill)


def is_killed_while_training() -> None:
    _failing(TrainModel, "update", on_rank=0, call=LAST_STEP, failure=_kill)


def raises_while_sending_weights() -> None:
    _failing(Refit, "start", on_rank=0, call=LAST_STEP, failure=_raise)


def is_killed_while_taking_weights() -> None:
    _failing(Refit, "receive", on_rank=1, call=LAST_STEP, failure=_kill)


def is_killed_with_a_full_queue() -> None:
    """Kill rank 0 while the generating rank is as far ahead as it may be."""
    _failing(PolicyUpdate, "learn", on_rank=0, call=LAST_STEP, failure=_sleep_then(_kill))


def is_killed_with_an_empty_queue() -> None:
    """Kill rank 1 while the training rank waits for samples."""
    _failing(Collector, "collect", on_rank=1, call=LAST_STEP, failure=_sleep_then(_kill))


def has_logits_that_are_no_numbers() -> None:
    original = NativeGenerator.on_weights_updated

    def on_weights_updated(self: NativeGenerator) -> None:
        for parameter in self.allocate().values():
            parameter.fill_(torch.nan)
        original(self)

    with mock.patch.object(NativeGenerator, "on_weights_updated", on_weights_updated):
        entry.main()


def takes_weights_one_step_late() -> None:
    original = GeneratingRank.__init__

    def init(self: GeneratingRank, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._staleness += 1

    with mock.patch.object(GeneratingRank, "__init__", init):
        entry.main()


def notes_how_much_it_is_asked() -> None:
    """Run without a failure; each rank writes the number of its requests in every round."""
    original = NativeGenerator.generate
    notes = Path(os.environ["NEMOPERF_RUN_DIR"]) / f"requests-rank{os.environ['RANK']}.txt"

    def generate(self: NativeGenerator, requests: Sequence[Request], *, seed: int) -> GenerationResult:
        with notes.open("a") as file:
            file.write(f"{len(requests)}\n")
        return original(self, requests, seed=seed)

    with mock.patch.object(NativeGenerator, "generate", generate):
        entry.main()


def _is_reference(learner: TrainModel) -> bool:
    return learner._updater is None


def _failing(
    owner: type | ModuleType,
    name: str,
    *,
    on_rank: int,
    call: int,
    failure: Callable[[], None],
    where: Callable[..., bool] = lambda _self: True,
) -> None:
    """Run this rank; one of them fails in one call of a method of those objects, or of a function."""
    original = getattr(owner, name)
    calls = iter(range(10**6))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if int(os.environ["RANK"]) == on_rank and where(args[0]) and next(calls) == call:
            failure()
        return original(*args, **kwargs)

    with mock.patch.object(owner, name, failing):
        entry.main()


def _raise() -> None:
    raise RuntimeError("this rank fails on purpose")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _sleep_then(failure: Callable[[], None]) -> Callable[[], None]:
    def sleep_first() -> None:
        time.sleep(0.5)  # the other side gets as far as it can
        failure()

    return sleep_first
