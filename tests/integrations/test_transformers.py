from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback

from pytest_nemoperf.integrations import StepError, TrainerSteps
from pytest_nemoperf.records.step import RolloutStats
from tests.builders import make_plan, make_rl
from tests.integrations.conftest import Clock, PerfRun

BeginRun = Callable[..., PerfRun]


class Arguments:
    """TrainingArguments as far as a callback reads them: 4 sequences an update, all of the plan's."""

    per_device_train_batch_size = train_batch_size = 4
    gradient_accumulation_steps = 1
    world_size = 1
    logging_first_step = False
    logging_nan_inf_filter = True
    logging_strategy = eval_strategy = save_strategy = "steps"
    eval_delay = 0

    def __init__(self, **changes: Any) -> None:
        for name, value in changes.items():
            setattr(self, name, value)


class FakeTrainer:
    """Calls callbacks in the order of Trainer._inner_training_loop; each part of a step takes its own time.

    Loading a batch takes 0.25 s, a micro-batch 1 s, the optimizer 0.5 s, and what is not part of a step 100 s.
    """

    def __init__(
        self, clock: Clock, *callbacks: Any, num_epochs: int = 1, updates_per_epoch: int = 1000, **arguments: Any
    ):
        self.clock = clock
        self.args = Arguments(**arguments)
        self.state = TrainerState(
            max_steps=num_epochs * updates_per_epoch, logging_steps=500, eval_steps=2, save_steps=2
        )
        self.control = TrainerControl()
        self.num_epochs = num_epochs
        self.updates_per_epoch = updates_per_epoch
        self.num_micro_batches = 0
        self.not_training: list[str] = []
        self.logs: Callable[[int], dict[str, Any]] = lambda _: {}
        self.handler = CallbackHandler([DefaultFlowCallback(), *callbacks], None, None, None, None)

    def call(self, event: str, **values: Any) -> None:
        self.control = getattr(self.handler, event)(self.args, self.state, self.control, **values)

    def on_micro_batch(self) -> None:
        self.clock.work(1.0)
        self.num_micro_batches += 1

    def train(self, *, evaluates_first: bool = False) -> None:
        self.call("on_train_begin")
        if evaluates_first:
            self.evaluate()
        for epoch in range(self.num_epochs):
            self.call("on_epoch_begin")
            for _ in range(self.updates_per_epoch):
                self.update()
                if self.control.should_training_stop:
                    break
            self.state.epoch = epoch + 1.0
            self.call("on_epoch_end")
            self.log_save_evaluate()
            if self.control.should_training_stop:
                break
        self.call("on_train_end")

    def update(self) -> None:
        self.clock.work(0.25)
        self.call("on_step_begin")
        for micro_batch in range(self.args.gradient_accumulation_steps):
            self.on_micro_batch()
            if micro_batch < self.args.gradient_accumulation_steps - 1:
                self.call("on_substep_end")
        self.call("on_pre_optimizer_step")
        self.clock.work(0.5)
        self.call("on_optimizer_step")
        self.state.global_step += 1
        self.state.epoch = 0.0
        self.call("on_step_end")
        self.log_save_evaluate()

    def log_save_evaluate(self) -> None:
        if self.control.should_log:
            self.clock.work(100.0)
            step = self.state.global_step
            logs = {"loss": 6.0, "grad_norm": 1.5, **self.logs(step)}
            if self.args.logging_nan_inf_filter and math.isnan(logs["loss"]):
                logs["loss"] = 0.0  # the mean of the losses since the last log that were finite: none
            self.handler.on_log(self.args, self.state, self.control, logs)
            self.control.should_log = False
        if self.control.should_evaluate:
            self.evaluate()
        if self.control.should_save:
            self.not_training.append("save")
            self.clock.work(100.0)
            self.call("on_save")

    def evaluate(self) -> None:
        self.not_training.append("evaluate")
        self.clock.work(100.0)
        self.handler.on_log(self.args, self.state, self.control, {"eval_loss": 6.0})
        self.control = self.handler.on_evaluate(self.args, self.state, self.control, {})
        self.control.should_evaluate = False


def test_a_loss_that_is_not_a_number_is_recorded_and_not_filtered(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, TrainerSteps())
    trainer.logs = lambda step: {"loss": math.nan} if step == 5 else {}

    trainer.train()

    losses = [record.loss or 0.0 for record in run.records()]
    assert [math.isnan(loss) for loss in losses] == [step == 5 for step in range(1, 9)]


def test_a_trainer_outside_of_a_perf_run_filters_its_log_as_it_is_told(clock: Clock) -> None:
    trainer = FakeTrainer(clock, TrainerSteps(), updates_per_epoch=3)

    trainer.train()

    assert trainer.args.logging_nan_inf_filter


def test_a_step_is_an_update_with_its_loading_and_ends_with_the_plan(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, TrainerSteps())

    trainer.train()

    records = run.records()
    assert [record.step for record in records] == list(range(8))
    assert {record.step_time_sec for record in records} == {1.75}
    assert {(record.loss, record.grad_norm) for record in records} == {(6.0, 1.5)}
    assert {record.tokens for record in records} == {run.plan.tokens_per_step}
    assert trainer.state.global_step == 8


def test_nothing_is_evaluated_or_saved_between_steps(perf_run: BeginRun, clock: Clock) -> None:
    perf_run()
    trainer = FakeTrainer(clock, TrainerSteps(), updates_per_epoch=4, num_epochs=5)
    trainer.args.eval_strategy = trainer.args.save_strategy = "epoch"

    trainer.train()

    assert trainer.not_training == []


def test_outside_of_a_perf_run_a_trainer_does_as_ever(clock: Clock) -> None:
    trainer = FakeTrainer(clock, TrainerSteps(), updates_per_epoch=5)
    alone = FakeTrainer(clock, updates_per_epoch=5)

    trainer.train()
    alone.train()

    assert trainer.not_training == alone.not_training != []
    assert trainer.state.global_step == alone.state.global_step == 5
    assert trainer.control == alone.control


def test_an_evaluation_before_the_first_step_is_not_part_of_it(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, TrainerSteps())

    trainer.train(evaluates_first=True)

    assert trainer.not_training == ["evaluate"]
    assert {record.step_time_sec for record in run.records()} == {1.75}


def test_steps_go_on_in_the_next_epoch(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, TrainerSteps(), updates_per_epoch=3, num_epochs=5)

    trainer.train()

    assert [record.step for record in run.records()] == list(range(8))
    assert {record.step_time_sec for record in run.records()} == {1.75}


def test_micro_batches_of_an_update_are_one_step(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, TrainerSteps(), gradient_accumulation_steps=2, train_batch_size=2)

    trainer.train()

    assert {record.step_time_sec for record in run.records()} == {2.75}
    assert trainer.num_micro_batches == 16


def test_tokens_are_those_that_the_trainer_counts(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run(has_varying_lengths=True)
    trainer = FakeTrainer(clock, TrainerSteps())
    trainer.state.num_input_tokens_seen = 1000  # of a run that is resumed

    def count() -> None:
        trainer.state.num_input_tokens_seen += 100 + trainer.state.global_step

    trainer.on_micro_batch = count  # type: ignore[method-assign]  # of this trainer alone
    trainer.train()

    assert [record.tokens for record in run.records()] == [100 + step for step in range(8)]


def test_tokens_may_be_in_what_trl_logs(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run(has_varying_lengths=True)
    trainer = FakeTrainer(clock, TrainerSteps())
    trainer.logs = lambda step: {"num_tokens": 50.0 * step}

    trainer.train()

    assert {record.tokens for record in run.records()} == {50}


def test_figures_that_the_trainer_does_not_know_may_be_recorded(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    steps = TrainerSteps()
    trainer = FakeTrainer(clock, steps)
    trainer.on_micro_batch = lambda: steps.record(flops=5e9)  # type: ignore[method-assign]  # of this trainer alone

    trainer.train()

    assert {record.flops for record in run.records()} == {5e9}


def test_a_step_is_written_if_nothing_is_logged_of_it(
    perf_run: BeginRun, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = perf_run()
    trainer = FakeTrainer(clock, TrainerSteps(), updates_per_epoch=1, num_epochs=20)
    monkeypatch.setattr(trainer, "log_save_evaluate", lambda: None)

    trainer.train()

    assert [record.step for record in run.records()] == list(range(8))
    assert {record.loss for record in run.records()} == {None}


ONLINE = {"train_batch_size": 4, "num_iterations": 1, "num_generations": 2}
ROLLOUT_LOGS = {
    "num_tokens": 320.0,
    "completions/mean_length": 24.0,
    "completions/clipped_ratio": 0.25,
    "reward": 0.5,
    "reward_std": 0.125,
    "kl": None,
}


@pytest.mark.parametrize(
    ("arguments", "updates", "seconds", "samples"),
    [
        pytest.param({"steps_per_generation": 2, "generation_batch_size": 8}, 2, 3.5, 8, id="two updates"),
        pytest.param(
            {"steps_per_generation": 2, "generation_batch_size": 8, "num_iterations": 2}, 4, 7.0, 8, id="each twice"
        ),
        pytest.param(
            {
                "steps_per_generation": 1,
                "generation_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "train_batch_size": 2,
            },
            1,
            2.75,
            4,
            id="two generations",
        ),
    ],
)
def test_a_step_of_an_online_trainer_is_a_generation_with_its_updates(
    perf_run: BeginRun, clock: Clock, arguments: dict[str, Any], updates: int, seconds: float, samples: int
) -> None:
    run = perf_run(plan=make_plan(rl=make_rl(response_lengths="sampled")))
    trainer = FakeTrainer(clock, TrainerSteps(), **{**ONLINE, **arguments})
    trainer.logs = lambda step: {**ROLLOUT_LOGS, "num_tokens": 320.0 * step / updates}

    trainer.train()

    records = run.records()
    assert len(records) == 8
    assert trainer.state.global_step == 8 * updates
    assert {record.step_time_sec for record in records} == {seconds}
    assert {record.tokens for record in records} == {320}
    assert {record.rollout for record in records} == {
        RolloutStats(
            num_samples=samples,
            num_response_tokens=24 * samples,
            num_truncated=samples // 4,
            reward_mean=0.5,
            reward_std=0.125,
        )
    }


def test_a_trainer_without_rollouts_is_told_that_the_recipe_expects_them(perf_run: BeginRun, clock: Clock) -> None:
    perf_run(plan=make_plan(rl=make_rl()))

    with pytest.raises(StepError, match="step 0 says nothing of what was generated"):
        FakeTrainer(clock, TrainerSteps()).train()


def test_other_ranks_end_too_and_write_nothing(
    perf_run: BeginRun, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = perf_run()
    monkeypatch.setenv("RANK", "1")
    trainer = FakeTrainer(clock, TrainerSteps(), world_size=2, train_batch_size=2)

    trainer.train()

    assert trainer.state.global_step == 8
    assert not run.steps_path.exists()


def test_another_batch_than_the_recipes_is_refused(perf_run: BeginRun, clock: Clock) -> None:
    perf_run()

    with pytest.raises(StepError, match=r"trains 16 sequences an update .* recipe says global_batch_size=4; make them"):
        FakeTrainer(clock, TrainerSteps(), gradient_accumulation_steps=2, world_size=2).train()


def test_ranks_that_share_sequences_are_not_counted(perf_run: BeginRun, clock: Clock) -> None:
    plan = make_plan()
    layout = {"tp": 2, "gpus": 2, "dp_shard": 1}
    run = perf_run(plan=make_plan(layouts={"cpu": layout}))

    FakeTrainer(clock, TrainerSteps(), world_size=2).train()

    assert len(run.records()) == plan.total_steps


def test_a_trainer_that_ends_before_the_plan_is_told_at_once(perf_run: BeginRun, clock: Clock) -> None:
    perf_run()
    trainer = FakeTrainer(clock, TrainerSteps(), updates_per_epoch=7)

    with pytest.raises(
        StepError, match=r"ends after 7 updates, the plan needs 8 \(2 warm-up and 6 measured steps of 1"
    ):
        trainer.train()

    assert trainer.num_micro_batches == 0
