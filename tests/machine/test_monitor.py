from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pynvml
import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.machine.host_samples import HostSample, HostSampler
from pytest_nemoperf.machine.monitor import Monitor
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.health import HealthReport, MinMedianMax, health_problems
from tests.builders import make_plan, make_recipe
from tests.machine.fake_nvml import FakeNvml, install

PLAN = make_plan()  # 2 steps of warm-up and 6 measured


class FakeHost(HostSampler):
    """Host of two cores: other processes use the share ``foreign`` of them, and a sample takes ``cost_sec``."""

    def __init__(self) -> None:
        super().__init__(cores=[0, 1])
        self.now = self.foreign = self.cost_sec = 0.0
        self._used = self._idle = 0.0
        self.num_samples = 0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self._used += 2 * seconds * self.foreign
        self._idle += 2 * seconds * (1 - self.foreign)

    def sample(self) -> HostSample:
        self.num_samples += 1
        self.pass_time(self.cost_sec)
        return HostSample(
            used_sec=self._used,
            idle_sec=self._idle,
            steal_sec=0.0,
            own_sec=0.0,
            foreign={1: ("yes", self._used)},
            throttled_sec={},
            frequency_mhz=None,
        )


def monitor_of(plan: Plan, *, host: FakeHost) -> Monitor:
    num_gpus = plan.layout.total_gpus if plan.device == "cuda" else 0
    return Monitor(
        first_step=plan.warmup_steps,
        last_step=plan.total_steps,
        num_gpus=num_gpus,
        host=host,
        now=lambda: host.now,
    )


def watch(host: FakeHost, *, course: list[tuple[float, int]], plan: Plan = PLAN) -> HealthReport:
    """Return the report of a run; ``course`` holds the time of each poll and the steps finished by then."""
    with monitor_of(plan, host=host) as monitor:
        for time_sec, num_finished in course:
            host.pass_time(time_sec - host.now)
            host.foreign = 0.5 if num_finished >= plan.warmup_steps else 0.0
            monitor.poll(num_finished=num_finished)
        return monitor.report(num_finished=course[-1][1])


def test_only_time_in_measured_steps_counts() -> None:
    course = [(number / 5, max(0, min(8, number - 4))) for number in range(1, 21)]

    report = watch(FakeHost(), course=course)

    assert report.is_measured_steps
    assert report.seconds == pytest.approx(1.2)  # six steps of a fifth of a second
    assert report.cpu is not None
    assert report.cpu.foreign_share == pytest.approx(0.5)


def test_samples_are_taken_now_and_then_and_at_the_ends_of_warm_up_and_steps() -> None:
    host = FakeHost()

    watch(host, course=[(number / 10, 0) for number in range(1, 11)] + [(1.1, 2), (1.2, 5), (1.3, 8), (1.4, 8)])

    assert host.num_samples == 1 + 2 + 2 + 1  # before, regular, at the ends, after


def test_a_sample_that_takes_long_is_followed_by_a_long_rest() -> None:
    host = FakeHost()
    host.cost_sec = 0.05

    watch(host, course=[(number / 10, 0) for number in range(1, 60)])

    assert host.num_samples == 1 + 1 + 1


@pytest.mark.parametrize("num_finished", [0, 8], ids=["steps untold", "told at once"])
def test_of_a_run_whose_steps_are_not_told_in_time_the_end_counts(num_finished: int) -> None:
    host = FakeHost()

    report = watch(host, course=[(number / 5, 0) for number in range(1, 11)] + [(2.3, num_finished)])

    assert not report.is_measured_steps
    assert 0.4 <= report.seconds < 1.0


def test_a_cpu_run_asks_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(errors={"nvmlInit": AssertionError})
    install(monkeypatch, fake)

    assert watch(FakeHost(), course=[(1.0, 3)]).gpus == ()


@pytest.fixture
def watch_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., HealthReport]:
    """Watch a run on two GPUs, and call ``then`` in the middle of it."""

    def call(
        fake: FakeNvml,
        *,
        visible: str | None = None,
        then: Callable[[], object] = lambda: None,
        process_ids: str | None = "pid:[4026531836]",
    ) -> HealthReport:
        install(monkeypatch, fake, visible=visible)
        if process_ids is not None:
            (tmp_path / "pid").symlink_to(process_ids)
        monkeypatch.setattr("pytest_nemoperf.machine.gpu_samples._PROCESS_IDS", tmp_path / "pid")
        recipe = make_recipe(layouts={"h100": Layout(gpus=2, dp_shard=2)})
        host = FakeHost()
        with monitor_of(resolve(recipe, system=find_system("h100")), host=host) as monitor:
            for num_finished in range(9):
                host.pass_time(0.5)
                if num_finished == 5:
                    then()
                monitor.poll(num_finished=num_finished)
            report = monitor.report(num_finished=8)
        assert (fake.num_open, fake.event_sets) == (0, 0)
        return report

    return call


def test_gpus_are_told_by_their_visible_numbers(watch_gpus: Callable[..., HealthReport]) -> None:
    report = watch_gpus(FakeNvml(names=["H100"] * 4, sm_clocks_mhz={3: 1200}), visible="3,1")

    assert [gpu.gpu for gpu in report.gpus] == [0, 1]
    assert [gpu.sm_clock_mhz for gpu in report.gpus] == [
        MinMedianMax(low=1200, median=1200, high=1200),
        MinMedianMax(low=1980, median=1980, high=1980),
    ]
    assert report.gpus[0].power_w == MinMedianMax(low=650.5, median=650.5, high=650.5)
    assert report.gpus[0].power_cap_w == 700
    assert health_problems(report) == []


def test_throttling_is_a_share_of_the_samples(watch_gpus: Callable[..., HealthReport]) -> None:
    fake = FakeNvml()
    bits = pynvml.nvmlClocksThrottleReasonHwSlowdown | pynvml.nvmlClocksThrottleReasonSwPowerCap

    report = watch_gpus(fake, then=lambda: setattr(fake, "throttle_reasons", bits))

    assert report.gpus[0].reasons == pytest.approx({"hw_slowdown": 4 / 6, "sw_power_cap": 4 / 6})
    assert health_problems(report)[0].startswith("GPU 0 was slowed by its hardware")


def test_errors_count_only_if_they_came_up_meanwhile(watch_gpus: Callable[..., HealthReport]) -> None:
    fake = FakeNvml(memory_errors=7)

    def break_down() -> None:
        fake.memory_errors, fake.xids = 9, [79]

    report = watch_gpus(fake, then=break_down)

    assert [(gpu.num_memory_errors, gpu.xids) for gpu in report.gpus] == [(2, (79,)), (2, ())]  # one queue for both


def test_only_processes_from_before_to_after_the_run_are_foreign(watch_gpus: Callable[..., HealthReport]) -> None:
    fake = FakeNvml(processes={900_001: 0, 900_002: 0})

    report = watch_gpus(fake, then=lambda: fake.processes.update({900_002: None, 900_003: 0}))

    assert [gpu.foreign_processes for gpu in report.gpus] == [("process 900001",), ()]


@pytest.mark.parametrize("process_ids", ["pid:[4026532198]", None], ids=["container", "not told"])
def test_where_own_processes_can_not_be_recognised_none_is_foreign(
    watch_gpus: Callable[..., HealthReport], process_ids: str | None
) -> None:
    report = watch_gpus(FakeNvml(processes={900_001: 0}), process_ids=process_ids)  # it may be this very process

    assert [gpu.foreign_processes for gpu in report.gpus] == [(), ()]


def test_this_session_is_not_foreign_to_itself(watch_gpus: Callable[..., HealthReport]) -> None:
    report = watch_gpus(FakeNvml(processes={os.getpid(): 0}))

    assert report.gpus[0].foreign_processes == ()


@pytest.mark.parametrize(
    "call",
    [
        "nvmlEventSetCreate",
        "nvmlDeviceRegisterEvents",
        "nvmlDeviceGetTotalEccErrors",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ],
)
def test_what_a_gpu_does_not_support_is_left_out(watch_gpus: Callable[..., HealthReport], call: str) -> None:
    report = watch_gpus(FakeNvml(errors={call: pynvml.NVMLError_NotSupported}))

    assert len(report.gpus) == 2
    assert health_problems(report) == []


def test_a_driver_that_does_not_answer_leaves_the_host(watch_gpus: Callable[..., HealthReport]) -> None:
    report = watch_gpus(FakeNvml(errors={"nvmlInit": pynvml.NVMLError_DriverNotLoaded}))

    assert report.gpus == ()
    assert report.cpu is not None


def test_the_real_host_can_be_watched(tmp_path: Path) -> None:
    with Monitor(first_step=2, last_step=8, num_gpus=0) as monitor:
        monitor.poll(num_finished=3)
        report = monitor.report(num_finished=8)

    assert report.num_samples >= 1


@dataclass
class FakeMeter:
    """Counter of a device that draws ``power_w`` since the host's start."""

    host: FakeHost
    source: Literal["nvml", "powercap"] = "powercap"
    period_sec: float = 1e-3
    problem: str = ""
    power_w: float = 200.0
    uj: float = 0.0
    last_sec: float = 0.0

    def microjoules(self) -> tuple[int, ...]:
        self.uj += 1e6 * self.power_w * (self.host.now - self.last_sec)
        self.last_sec = self.host.now
        return (round(self.uj),)

    def range_of(self, index: int) -> int | None:
        assert index == 0
        return None


def test_energy_is_that_of_the_measured_steps() -> None:
    host = FakeHost()
    meter = FakeMeter(host)
    with Monitor(first_step=2, last_step=8, num_gpus=0, host=host, packages=meter, now=lambda: host.now) as monitor:
        for num_finished in range(9):
            host.pass_time(0.6)
            # A warm-up of 50 W, steps of 200 W, and 1 W while nobody looks after the last one.
            meter.power_w = 50.0 if num_finished < 3 else 200.0
            if num_finished == 8:
                meter.power_w = 1.0
            monitor.poll(num_finished=num_finished)
        energy = monitor.report(num_finished=8).energy

    assert energy is not None
    assert energy.joules is not None
    assert energy.joules / energy.seconds == pytest.approx(200.0)
    assert energy.seconds == pytest.approx(5 * 0.6)  # between the looks after steps 2 and 7, counted from 1


def test_a_run_on_gpus_has_their_energy(watch_gpus: Callable[..., HealthReport]) -> None:
    values = [1_000 * number for number in range(100)]
    energy = watch_gpus(FakeNvml(millijoules={0: list(values), 1: list(values)})).energy

    assert energy is not None
    assert energy.source == "nvml"
    assert energy.joules == 2 * 5.0  # a joule each from look to look, on two GPUs


def test_steps_that_are_told_too_late_have_no_energy() -> None:
    host = FakeHost()
    meter = FakeMeter(host)
    with Monitor(first_step=2, last_step=8, num_gpus=0, host=host, packages=meter, now=lambda: host.now) as monitor:
        host.pass_time(5.0)
        monitor.poll(num_finished=8)
        energy = monitor.report(num_finished=8).energy

    assert energy is not None
    assert energy.joules is None
    assert "readings within the measured steps span 0 s" in energy.problem
