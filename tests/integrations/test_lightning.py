from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pytest_nemoperf import integrations
from tests.integrations.conftest import Clock, PerfRun

BeginRun = Callable[..., PerfRun]
MODULE = "pytest_nemoperf.integrations.lightning"


class Callback:
    """Lightning's base class, as far as this package is concerned."""


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def steps_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Make a LightningSteps on a stand-in for Lightning, which need not be installed, under either of its names."""
    name = request.param
    for loaded in [each for each in sys.modules if each.partition(".")[0] in ("lightning", "pytorch_lightning")]:
        monkeypatch.delitem(sys.modules, loaded)
    for module in {name.partition(".")[0], name, f"{name}.callbacks"}:
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setattr(sys.modules[f"{name}.callbacks"], "Callback", Callback, raising=False)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    yield integrations.LightningSteps
    sys.modules.pop(MODULE, None)


class FakeTrainer:
    """Calls a callback in the order of Lightning's loops; each part of a step takes its own time.

    Loading a batch takes 0.25 s, a batch 1 s, a validation 100 s.
    """

    def __init__(
        self,
        clock: Clock,
        callback: Any,
        *,
        accumulate: int = 1,
        batches_per_epoch: int = 1000,
        validate_every: int = 10**6,
    ) -> None:
        self.clock = clock
        self.callback = callback
        self.accumulate = accumulate
        self.batches_per_epoch = batches_per_epoch
        self.validate_every = validate_every
        self.global_step = 0
        self.num_batches = 0
        self.should_stop = self.sanity_checking = False
        self.fit_loop = SimpleNamespace(min_epochs=7, epoch_loop=SimpleNamespace(min_steps=100))
        self.training_step: Callable[[], object] = lambda: {"loss": 6.0 / accumulate}

    @property
    def can_stop(self) -> bool:
        return self.fit_loop.min_epochs is None and self.fit_loop.epoch_loop.min_steps is None

    def call(self, event: str, *values: Any) -> None:
        hook = getattr(self.callback, event, None)
        if hook is not None:
            hook(self, None, *values)

    def fit(self) -> None:
        self.sanity_checking = True
        self.validate()
        self.sanity_checking = False
        for _ in range(1000):
            self.call("on_train_epoch_start")
            for _ in range(self.batches_per_epoch):
                self.clock.work(0.25)
                self.call("on_train_batch_start", None, self.num_batches)
                outputs = self.training_step()
                self.clock.work(1.0)
                self.num_batches += 1
                if self.num_batches % self.accumulate == 0:
                    self.global_step += 1
                self.call("on_train_batch_end", outputs, None, self.num_batches)
                if self.num_batches % self.validate_every == 0:
                    self.validate()
                if self.should_stop and self.can_stop:
                    break
            if self.should_stop and self.can_stop:
                break
        self.call("on_train_end")

    def validate(self) -> None:
        self.call("on_validation_start")
        self.clock.work(100.0)
        self.call("on_validation_end")


def test_a_step_is_an_update_with_its_loading_and_ends_with_the_plan(
    perf_run: BeginRun, clock: Clock, steps_of: Callable[[], Any]
) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, steps_of())

    trainer.fit()

    records = run.records()
    assert [record.step for record in records] == list(range(8))
    assert {(record.step_time_sec, record.loss) for record in records} == {(1.25, 6.0)}
    assert trainer.num_batches == 8


def test_batches_of_an_update_are_one_step_with_their_mean_loss(
    perf_run: BeginRun, clock: Clock, steps_of: Callable[[], Any]
) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, steps_of(), accumulate=4)

    trainer.fit()

    assert {(record.step_time_sec, record.loss) for record in run.records()} == {(5.0, 6.0)}
    assert trainer.num_batches == 32


@pytest.mark.parametrize(
    ("accumulate", "validate_every", "times"),
    [
        pytest.param(1, 2, {1.25}, id="between steps"),
        pytest.param(2, 3, {2.5, 102.5}, id="within a step it counts"),
    ],
)
def test_a_validation_between_steps_does_not_count(
    perf_run: BeginRun,
    clock: Clock,
    steps_of: Callable[[], Any],
    accumulate: int,
    validate_every: int,
    times: set[float],
) -> None:
    run = perf_run()

    FakeTrainer(clock, steps_of(), accumulate=accumulate, validate_every=validate_every).fit()

    assert {record.step_time_sec for record in run.records()} == times


def test_steps_go_on_in_the_next_epoch_even_in_the_middle_of_an_update(
    perf_run: BeginRun, clock: Clock, steps_of: Callable[[], Any]
) -> None:
    run = perf_run()

    FakeTrainer(clock, steps_of(), accumulate=2, batches_per_epoch=3).fit()

    assert {record.step_time_sec for record in run.records()} == {2.5}


def test_tokens_may_be_recorded_and_a_loss_may_be_missing(
    perf_run: BeginRun, clock: Clock, steps_of: Callable[[], Any]
) -> None:
    run = perf_run(has_varying_lengths=True)
    steps = steps_of()
    trainer = FakeTrainer(clock, steps)
    trainer.training_step = lambda: steps.record(tokens=77)

    trainer.fit()

    assert {(record.tokens, record.loss) for record in run.records()} == {(77, None)}


def test_outside_of_a_perf_run_a_trainer_does_as_ever(clock: Clock, steps_of: Callable[[], Any]) -> None:
    trainer = FakeTrainer(clock, steps_of(), batches_per_epoch=1)

    trainer.fit()

    assert trainer.num_batches == 1000
    assert not trainer.should_stop
