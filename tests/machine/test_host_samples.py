from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_nemoperf.machine.host_samples import HostSample, HostSampler, cpu_health, use_between
from pytest_nemoperf.records.health import CpuHealth, MinMedianMax

OWN = 100


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_cores(root: Path, *cores: tuple[int, int, int]) -> None:
    """Write ticks of user time, idle time and steal of each core, and some of interrupts, which count for none."""
    lines = [f"cpu{number} {user} 0 0 {idle} 0 50 50 {steal} 0 0" for number, (user, idle, steal) in enumerate(cores)]
    write(root / "proc/stat", "\n".join(["cpu 9 9 9 9 9 9 9 9 9 9", *lines, "intr 1 2 3"]))


def write_process(root: Path, pid: int, *, parent: int, name: str, ticks: int, children: int = 0) -> None:
    write(root / f"proc/{pid}/stat", f"{pid} ({name}) S {parent} 1 1 0 -1 0 0 0 0 0 {ticks} 0 {children} 0 20 0 1 0")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("os.sysconf", lambda _: 100)
    write_cores(tmp_path, (0, 0, 0), (0, 0, 0), (0, 0, 0))
    write_process(tmp_path, 1, parent=0, name="init", ticks=0)
    write_process(tmp_path, OWN, parent=1, name="pytest", ticks=0)
    return tmp_path


def sampler(root: Path) -> HostSampler:
    return HostSampler(root=root, own_pid=OWN, cores=[0, 1])


def health(then: HostSample | None, now: HostSample | None) -> CpuHealth:
    assert then is not None
    assert now is not None
    found = cpu_health([use_between(then, now)], num_cores=2)
    assert found is not None
    return found


def test_time_is_shared_out_between_this_session_others_other_guests_and_nobody(root: Path) -> None:
    then = sampler(root).sample()
    write_cores(root, (90, 0, 10), (40, 60, 0), (100, 0, 0))  # the third is not ours to use
    write_process(root, OWN, parent=1, name="pytest", ticks=10, children=5)
    write_process(root, 101, parent=OWN, name="server", ticks=15)
    write_process(root, 102, parent=101, name="rank) 0 (", ticks=60)
    write_process(root, 200, parent=1, name="yes", ticks=38)

    now = health(then, sampler(root).sample())

    assert now.own_share == pytest.approx(0.45)
    assert now.foreign_share == pytest.approx(0.20)
    assert now.idle_share == pytest.approx(0.30)
    assert now.steal_share == pytest.approx(0.05)
    assert now.foreign_processes == {"yes (process 200)": 0.19}


def test_processes_of_one_name_are_added_up(root: Path) -> None:
    then = sampler(root).sample()
    write_cores(root, (100, 0, 0), (0, 100, 0))
    for pid in range(200, 203):
        write_process(root, pid, parent=1, name="cc1", ticks=20)

    assert health(then, sampler(root).sample()).foreign_processes == {"cc1 (3 processes)": 0.3}


def test_a_rank_that_ended_stays_this_sessions(root: Path) -> None:
    write_process(root, 101, parent=OWN, name="rank", ticks=50)
    then = sampler(root).sample()
    write_cores(root, (100, 0, 0), (0, 100, 0))
    (root / "proc/101/stat").unlink()  # as when a process ends between listing and reading
    write_process(root, OWN, parent=1, name="pytest", ticks=0, children=150)

    now = health(then, sampler(root).sample())

    assert (now.own_share, now.foreign_share) == (0.5, 0.0)


def test_others_that_can_not_be_seen_from_a_container_count_too(root: Path) -> None:
    then = sampler(root).sample()
    write_cores(root, (100, 0, 0), (100, 0, 0))

    now = health(then, sampler(root).sample())

    assert now.foreign_share == 1.0
    assert now.foreign_processes == {}


@pytest.mark.parametrize(
    ("files", "frequency", "throttled"),
    [
        ({}, None, None),
        ({"sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2600000\n"}, 2600.0, None),
        ({"sys/fs/cgroup/cpu.stat": "throttled_usec 500000\n"}, None, 0.0),
    ],
    ids=["nothing told", "frequency", "quota"],
)
def test_what_the_kernel_tells_besides_is_taken_along(
    root: Path, files: Mapping[str, str], frequency: float | None, throttled: float | None
) -> None:
    for name, text in files.items():
        write(root / name, text)
    then = sampler(root).sample()
    write_cores(root, (100, 0, 0), (0, 100, 0))

    now = health(then, sampler(root).sample())

    span = None if frequency is None else MinMedianMax(low=frequency, median=frequency, high=frequency)
    assert (now.frequency_mhz, now.throttled_share) == (span, throttled)


def test_the_group_that_was_stopped_the_longest_meanwhile_counts(root: Path) -> None:
    write(root / "proc/self/cgroup", "0::/pods/mine\n")

    def stop(pods_sec: float, mine_sec: float) -> None:
        for name, seconds in (("pods", pods_sec), ("pods/mine", mine_sec)):
            write(root / f"sys/fs/cgroup/{name}/cpu.stat", f"throttled_usec {seconds * 1e6:.0f}\n")

    stop(pods_sec=900.0, mine_sec=10.0)  # others' history
    then = sampler(root).sample()
    write_cores(root, (100, 0, 0), (0, 100, 0))
    stop(pods_sec=900.1, mine_sec=10.5)

    assert health(then, sampler(root).sample()).throttled_share == pytest.approx(0.25)


def test_a_quota_counts_in_the_cores_it_allows_not_in_those_of_the_machine(root: Path) -> None:
    host = HostSampler(root=root, own_pid=OWN, cores=range(64))
    write(root / "sys/fs/cgroup/cpu.max", "200000 100000")
    write(root / "sys/fs/cgroup/cpu.stat", "throttled_usec 0\n")
    write_cores(root, *[(0, 0, 0)] * 64)
    then = host.sample()
    write_cores(root, *[(50, 50, 0)] * 2, *[(0, 100, 0)] * 62)
    write(root / "sys/fs/cgroup/cpu.stat", "throttled_usec 1000000\n")  # two threads, stopped for half of a second
    now = host.sample()

    assert then is not None
    assert now is not None
    found = cpu_health([use_between(then, now)], num_cores=host.num_cores, num_allowed_cores=host.num_allowed_cores)
    assert found is not None
    assert found.throttled_share == pytest.approx(0.5)


def test_a_system_without_these_counts_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()

    assert sampler(tmp_path).sample() is None


def test_what_is_kept_of_an_interval_does_not_grow_with_the_number_of_processes(root: Path) -> None:
    then = sampler(root).sample()
    for pid in range(1000, 1100):
        write_process(root, pid, parent=1, name=f"p{pid}", ticks=pid - 1000)
    now = sampler(root).sample()

    assert then is not None
    assert now is not None
    assert set(use_between(then, now).foreign) == set(range(1080, 1100))


def test_no_time_has_no_shares(root: Path) -> None:
    sample = sampler(root).sample()

    assert sample is not None
    assert cpu_health([use_between(sample, sample)], num_cores=2) is None
    assert cpu_health([], num_cores=2) is None


def test_this_host_can_be_sampled() -> None:
    sample = HostSampler().sample()

    assert sample is not None
    assert sample.own_sec > 0
    assert sample.used_sec > 0
