from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import pytest_nemoperf.integrations
from pytest_nemoperf.integrations import StepError, StepWriter
from pytest_nemoperf.integrations.step_writer import ROLLOUT_KEYS
from pytest_nemoperf.records.step import RolloutStats
from tests.builders import make_plan, make_rl
from tests.integrations.conftest import Clock, PerfRun

BeginRun = Callable[..., PerfRun]
SOURCE = Path(pytest_nemoperf.integrations.__file__).parents[2]


class Tensor:
    """Number on a device; reading it is counted."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.num_read = 0

    def detach(self) -> Tensor:
        return self

    def __float__(self) -> float:
        self.num_read += 1
        return self.value


def train_over(batches: Iterable[float], steps: StepWriter, **options: Any) -> None:
    """Train on batches of one number; 0 raises ZeroDivisionError."""
    for batch in steps.over(batches, **options):
        steps.record(loss=1 / batch)


def train_in_block(batch: float, steps: StepWriter) -> None:
    with steps.step():
        steps.stop_clock()
        steps.record(loss=1 / batch)


def record_step(steps: StepWriter, **figures: Any) -> None:
    with steps.step():
        steps.record(**figures)


def nest_phases(steps: StepWriter) -> None:
    with steps.step(), steps.phase("training"), steps.phase("forward"):
        pass


def stop_in_phase(steps: StepWriter) -> None:
    with steps.step(), steps.phase("optimizer"):
        steps.stop_clock()


def test_a_loop_in_three_lines_leaves_the_records_of_the_plan(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()

    steps = StepWriter()
    for batch in steps.over(range(100_000)):
        clock.work(0.5)
        steps.record(loss=6.0 - batch)

    records = run.records()
    assert [record.step for record in records] == list(range(8))
    assert {record.step_time_sec for record in records} == {0.5}
    assert {record.tokens for record in records} == {run.plan.tokens_per_step}
    assert [record.loss for record in records] == [6.0 - step for step in range(8)]


def test_outside_of_a_perf_run_nothing_is_changed_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    steps = StepWriter()

    seen = []
    for batch in steps.over(range(20)):
        with steps.phase("forward"):
            seen.append(batch)
        steps.record(loss="no number", rollout={"no key": 1})
        steps.stop_clock()
    with steps.step() as step:
        step.record(tokens=-1)
    steps.end_step()

    assert seen == list(range(20))
    assert (steps.is_active, steps.is_done, steps.total_steps) == (False, False, 0)
    assert list(tmp_path.iterdir()) == []


def test_a_block_is_a_step_and_the_loop_ends_when_they_are_done(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    steps = StepWriter()

    while True:
        clock.work(9.0)  # between steps
        with steps.step() as step:
            clock.work(0.25)
            step.record(loss=1.0, grad_norm=2.0, tokens=256, flops=1e9)
        if steps.is_done:
            break

    records = run.records()
    assert len(records) == 8
    assert {(record.step_time_sec, record.grad_norm, record.flops) for record in records} == {(0.25, 2.0, 1e9)}


def test_blocks_after_the_last_step_are_not_recorded(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    for _ in range(20):
        with steps.step() as step:
            step.record(loss=1.0)

    assert len(run.records()) == 8


def test_loading_a_batch_counts_and_work_after_the_clock_has_stopped_does_not(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    steps = StepWriter()

    def batches() -> Iterator[int]:
        for batch in range(100):
            clock.work(0.125)
            yield batch

    for _ in steps.over(batches()):
        clock.work(0.5)
        steps.stop_clock()
        clock.work(30.0)  # an evaluation
        steps.record(loss=1.0)

    assert {record.step_time_sec for record in run.records()} == {0.625}
    assert {record.loss for record in run.records()} == {1.0}


def test_epochs_go_on_counting_and_no_batch_is_no_step(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    num_epochs = 0
    while not steps.is_done:
        num_epochs += 1
        for _ in steps.over([1, 2, 3]):
            pass

    assert num_epochs == 3
    assert [record.step for record in run.records()] == list(range(8))


def test_batches_between_two_updates_are_one_step(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    steps = StepWriter()

    num_batches = 0
    for _ in steps.over(range(1000), batches_per_step=4):
        num_batches += 1
        clock.work(0.25)

    assert num_batches == 4 * 8
    assert {record.step_time_sec for record in run.records()} == {1.0}


def test_a_step_that_an_exception_leaves_is_not_recorded(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    with pytest.raises(ZeroDivisionError):
        train_over([1, 2, 0], steps)
    with pytest.raises(ZeroDivisionError):
        train_in_block(0, steps)

    assert [record.step for record in run.records()] == [0, 1]
    assert run.steps_path.read_text().endswith("}\n")
    assert not steps.has_open_step


def test_a_line_is_there_as_soon_as_its_step_has_ended(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    with steps.step():
        pass

    assert len(run.lines()) == 1


@pytest.mark.parametrize("pct", [0.0, 40.0])
def test_the_delay_of_a_self_test_is_part_of_each_step(perf_run: BeginRun, clock: Clock, pct: float) -> None:
    run = perf_run(inject_pct=pct)
    steps = StepWriter()

    for _ in steps.over(range(100)):
        with steps.phase("forward"):
            clock.work(0.5)

    for record in run.records():
        assert record.step_time_sec == pytest.approx(0.5 * (1 + pct / 100))
        assert record.phases == pytest.approx({"forward": 0.5, "other": 0.5 * pct / 100})


def test_phases_sum_to_the_step_and_what_is_in_none_is_other(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    steps = StepWriter()

    for _ in steps.over(range(100)):
        for _ in range(2):
            with steps.phase("forward"):
                clock.work(0.5)
            with steps.phase("backward"):
                clock.work(1.0)
        clock.work(0.25)

    assert {tuple(record.phases.items()) for record in run.records()} == {
        (("forward", 1.0), ("backward", 2.0), ("other", 0.25))
    }


def test_a_phase_outside_of_a_step_does_nothing(perf_run: BeginRun, clock: Clock) -> None:
    run = perf_run()
    steps = StepWriter()

    for _ in steps.over(range(100)):
        clock.work(1.0)
        steps.stop_clock()
        with steps.phase("forward"):  # of an evaluation that calls the same function
            clock.work(5.0)

    assert {len(record.phases) for record in run.records()} == {0}


def test_a_tensor_is_read_only_when_the_clock_has_stopped(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()
    loss = Tensor(2.5)

    with steps.step():
        steps.record(loss=loss)
        num_read_within = loss.num_read

    assert (num_read_within, run.records()[0].loss) == (0, 2.5)


def _work_in_a_worker(steps: StepWriter) -> None:
    assert not steps.is_active
    assert list(steps.over(range(100))) == list(range(100))


def test_a_forked_worker_writes_nothing(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    with steps.step():
        worker = multiprocessing.get_context("fork").Process(target=_work_in_a_worker, args=(steps,))
        worker.start()
        worker.join()

    assert worker.exitcode == 0
    assert len(run.lines()) == 1


def test_a_figure_is_recorded_once_a_step(perf_run: BeginRun) -> None:
    perf_run()

    with pytest.raises(StepError, match=r"step 0: loss was recorded already \(0.5\); record it once a step"):
        train_over([2, 2], StepWriter(), batches_per_step=2)


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"tokens": -5}, r"step 0: tokens=-5 must be a whole number >= 1"),
        ({"tokens": 12.5}, r"step 0: tokens=12.5 must be a whole number >= 1"),
        ({"loss": "low"}, r"step 0: loss='low' must be a number, or a tensor of one element"),
        ({"rollout": {"num_response_tokens": -1}}, r"rollout.num_response_tokens=-1 must be a whole number >= 0"),
        ({"rollout": {"response_tokens": 5}}, r"unknown key 'response_tokens'; known: num_response_tokens, "),
    ],
)
def test_an_impossible_figure_is_refused(perf_run: BeginRun, figures: dict[str, Any], message: str) -> None:
    run = perf_run()
    steps = StepWriter()

    with pytest.raises(StepError, match=message):
        record_step(steps, **figures)

    assert run.records() == ()


def test_a_loss_that_is_not_finite_is_written_for_the_judge(perf_run: BeginRun) -> None:
    run = perf_run()
    steps = StepWriter()

    with steps.step():
        steps.record(loss=float("nan"))

    loss = run.records()[0].loss
    assert loss != loss  # noqa: PLR0124 (only NaN differs from itself)


def test_where_lengths_vary_each_step_says_its_tokens(perf_run: BeginRun) -> None:
    perf_run(has_varying_lengths=True)

    with pytest.raises(StepError, match=r"step 0 says nothing of its tokens; .*record\(tokens=\.\.\.\)"):
        record_step(StepWriter(), loss=1.0)


def test_rollouts_are_recorded_with_what_is_known_of_them(perf_run: BeginRun) -> None:
    run = perf_run(plan=make_plan(rl=make_rl()))
    steps = StepWriter()

    with steps.step():
        steps.record(rollout={"num_response_tokens": 192, "reward_mean": Tensor(0.5), "tokens_digest": "ab"})

    assert run.records()[0].rollout == RolloutStats(num_response_tokens=192, reward_mean=0.5, tokens_digest="ab")


def test_a_step_of_reinforcement_learning_says_how_much_was_generated(perf_run: BeginRun) -> None:
    perf_run(plan=make_plan(rl=make_rl()))

    with pytest.raises(StepError, match=r"step 0 says nothing of what was generated; .*num_response_tokens"):
        train_over([1], StepWriter())


def test_sampled_lengths_need_the_tokens_of_each_step(perf_run: BeginRun) -> None:
    perf_run(plan=make_plan(rl=make_rl(response_lengths="sampled")))

    with pytest.raises(StepError, match="step 0 says nothing of its tokens"):
        record_step(StepWriter(), rollout={"num_response_tokens": 192})


def test_every_figure_of_rollouts_has_its_key() -> None:
    assert set(ROLLOUT_KEYS) == {field.name for field in fields(RolloutStats)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda steps: steps.record(loss=1.0), r"record\(\) outside of a step"),
        (lambda steps: steps.end_step(), r"end_step\(\) without begin_step\(\)"),
        (lambda steps: (steps.begin_step(), steps.begin_step()), r"step 0 has not ended"),
        (lambda steps: list(steps.over([1], batches_per_step=0)), r"batches_per_step=0 must be >= 1"),
    ],
)
def test_calls_out_of_order_are_told(perf_run: BeginRun, call: Callable[[StepWriter], object], message: str) -> None:
    perf_run()

    with pytest.raises(StepError, match=message):
        call(StepWriter())


def test_phases_do_not_nest(perf_run: BeginRun) -> None:
    perf_run()

    with pytest.raises(StepError, match="step 0: phase 'forward' inside of 'training'"):
        nest_phases(StepWriter())


def test_the_clock_does_not_stop_inside_of_a_phase(perf_run: BeginRun) -> None:
    run = perf_run()

    with pytest.raises(
        StepError, match=r"step 0: the clock stops inside of phase 'optimizer', .*; end the phase first"
    ):
        stop_in_phase(StepWriter())

    assert run.records() == ()


def test_a_second_writer_of_a_run_is_told(perf_run: BeginRun) -> None:
    run = perf_run()
    record_step(StepWriter())

    with pytest.raises(StepError, match=r"steps.jsonl is there already: another StepWriter of this run writes it"):
        record_step(StepWriter())

    assert len(run.lines()) == 1


def test_a_folder_that_is_gone_is_told(perf_run: BeginRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    perf_run()
    monkeypatch.setenv("NEMOPERF_STEPS", str(tmp_path / "gone" / "steps.jsonl"))

    with pytest.raises(StepError, match=r"NEMOPERF_STEPS=.*gone.* can't be written"):
        record_step(StepWriter())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"plan of NEMOPERF_PLAN=.*plan.json can't be read: .*No such file"),
        ("{", r"plan of NEMOPERF_PLAN=.*plan.json can't be read: Expecting"),
        ("[" * 20_000, r"plan of NEMOPERF_PLAN=.*plan.json can't be read: maximum recursion depth"),
        ("[]", r"has schema_version None, this StepWriter reads 1"),
        ('{"schema_version": 1}', r"plan.json has no 'steps', so it is no plan; NEMOPERF_PLAN must name"),
        ('{"schema_version": 2}', r"has schema_version 2, this StepWriter reads 1; install the same pytest-nemoperf"),
    ],
)
def test_a_plan_that_is_missing_or_unreadable_is_told(perf_run: BeginRun, text: str | None, message: str) -> None:
    run = perf_run()
    run.plan_path.unlink()
    if text is not None:
        run.plan_path.write_text(text)

    with pytest.raises(StepError, match=message):
        StepWriter()


def test_records_without_a_plan_are_told(perf_run: BeginRun, monkeypatch: pytest.MonkeyPatch) -> None:
    perf_run()
    monkeypatch.delenv("NEMOPERF_PLAN")

    with pytest.raises(StepError, match="NEMOPERF_STEPS is set without NEMOPERF_PLAN"):
        StepWriter()


ALONE = """
import sys
sys.path.insert(0, {source!r})
from pytest_nemoperf.integrations import StepWriter
steps = StepWriter()
for _ in steps.over(range(3)):
    steps.record(loss=1.0)
for name in sorted(sys.modules):
    package = name.partition(".")[0]
    if package not in sys.stdlib_module_names and package != "__main__":
        print(name)
"""


def test_the_writer_needs_the_standard_library_alone(perf_run: BeginRun) -> None:
    run = perf_run()

    printed = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ALONE.format(source=str(SOURCE))],  # without site-packages
        env={**os.environ, **run.env},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert printed.stdout.split() == [
        "pytest_nemoperf",
        "pytest_nemoperf.integrations",
        "pytest_nemoperf.integrations.rank_device",
        "pytest_nemoperf.integrations.step_writer",
    ]
    assert len(run.lines()) == 3


def test_an_unknown_name_of_the_package_is_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'KerasSteps'"):
        _ = pytest_nemoperf.integrations.KerasSteps
