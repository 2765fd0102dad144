"""Energy counters: of the host's packages under powercap, of GPUs by NVML, and the energy between readings."""

from __future__ import annotations

import math
from pathlib import Path

import pynvml
import pytest

from pytest_nemoperf.machine.energy import EnergyReading, PackageMeter, energy_between, read_energy
from pytest_nemoperf.machine.gpu_samples import GpuMeter, GpuSampler
from tests.machine.fake_nvml import FakeNvml, install

RANGE_UJ = 262_143_328_850


def write_zone(root: Path, zone: str, *, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Host of two packages, as the kernel shows them: with zones of parts and of the platform."""
    write_zone(tmp_path, "intel-rapl:0", name="package-0", energy_uj=1_000_000)
    write_zone(tmp_path, "intel-rapl:0:0", name="core", energy_uj=600_000)
    write_zone(tmp_path, "intel-rapl:0:1", name="dram", energy_uj=300_000)
    write_zone(tmp_path, "intel-rapl:1", name="package-1", energy_uj=2_000_000)
    write_zone(tmp_path, "intel-rapl:2", name="psys", energy_uj=9_000_000)
    return tmp_path


def reading(time_sec: float, *microjoules: int) -> EnergyReading:
    return EnergyReading(time_sec=time_sec, microjoules=microjoules)


def test_packages_count_and_neither_their_parts_nor_the_platform(host: Path) -> None:
    assert PackageMeter(root=host).microjoules() == (1_000_000, 2_000_000)


def test_the_energy_of_packages_is_summed(host: Path) -> None:
    meter = PackageMeter(root=host)
    start = read_energy(meter, time_sec=10.0)
    write_zone(host, "intel-rapl:0", name="package-0", energy_uj=101_000_000)
    write_zone(host, "intel-rapl:1", name="package-1", energy_uj=52_000_000)
    end = read_energy(meter, time_sec=12.0)

    assert start is not None
    assert end is not None
    energy = energy_between([start, end], meter=meter)

    assert (energy.source, energy.joules, energy.seconds, energy.problem) == ("powercap", 150.0, 2.0, "")


def test_a_counter_that_starts_again_goes_on_counting(host: Path) -> None:
    meter = PackageMeter(root=host)
    readings = [reading(0.0, RANGE_UJ - 999_999, 0), reading(1.0, 2_000_000, 0), reading(2.0, 5_000_000, 0)]

    assert energy_between(readings, meter=meter).joules == 6.0


def test_a_host_without_counters_says_so(tmp_path: Path) -> None:
    meter = PackageMeter(root=tmp_path)

    assert "the host has no counter of its processors' energy in /sys/class/powercap" in meter.problem
    assert read_energy(meter, time_sec=0.0) is None
    assert energy_between([], meter=meter).problem == meter.problem


def test_counters_for_root_alone_say_what_lets_others_read_them(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_text = Path.read_text

    def refuse(path: Path, *args: str, **kwargs: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)  # root, who may run these tests, reads any file

    assert PackageMeter(root=host).problem == (
        "no permission to read /sys/class/powercap/intel-rapl:0/energy_uj; "
        "let root run: chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj"
    )


def test_a_counter_that_is_broken_is_named(host: Path) -> None:
    counter = host / "sys/class/powercap/intel-rapl:1/energy_uj"
    counter.unlink()
    counter.mkdir()

    assert PackageMeter(root=host).problem == (
        "/sys/class/powercap/intel-rapl:1/energy_uj can't be read: Is a directory"
    )


def test_a_counter_without_a_range_can_not_be_trusted(host: Path) -> None:
    (host / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()

    assert "intel-rapl:0 holds no counter with a range" in PackageMeter(root=host).problem


def test_a_counter_that_is_lost_during_the_run_leaves_no_energy(host: Path) -> None:
    meter = PackageMeter(root=host)
    (host / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
    end = read_energy(meter, time_sec=1.0)

    assert end is not None
    assert "could not be read" in energy_between([reading(0.0, 1, 1), end], meter=meter).problem


def test_counters_that_stand_still_are_no_energy_of_zero(host: Path) -> None:
    energy = energy_between([reading(0.0, 7, 8), reading(1.0, 7, 8)], meter=PackageMeter(root=host))

    assert energy.joules is None
    assert energy.problem == "2 counters of powercap stood still"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(millijoules={0: [1_000, 601_000], 1: [5_000, 305_000]})
    install(monkeypatch, fake)
    return fake


def test_gpus_count_millijoules(gpus: FakeNvml) -> None:
    gpus.millijoules = {0: [1_000], 1: [5_000]}
    with GpuSampler(num_gpus=2) as sampler:
        meter = GpuMeter(sampler, num_gpus=2)
        start = read_energy(meter, time_sec=0.0)
        gpus.millijoules = {0: [601_000], 1: [305_000]}
        end = read_energy(meter, time_sec=10.0)

    assert start is not None
    assert end is not None
    energy = energy_between([start, end], meter=meter)

    assert (energy.source, energy.joules, energy.seconds) == ("nvml", 900.0, 10.0)


def test_readings_that_are_a_tenth_of_a_second_old_make_noise(gpus: FakeNvml) -> None:
    with GpuSampler(num_gpus=1) as sampler:
        meter = GpuMeter(sampler, num_gpus=1)
    energy = energy_between([reading(0.0, 0), reading(10.0, 1)], meter=meter)

    assert energy.noise_pct == pytest.approx(100 * 0.1 / math.sqrt(6) / 10.0, abs=1e-3)


@pytest.mark.parametrize(("seconds", "is_known"), [(0.5, False), (0.8, False), (0.9, True)])
def test_a_run_too_short_for_the_counter_has_no_energy(gpus: FakeNvml, *, seconds: float, is_known: bool) -> None:
    with GpuSampler(num_gpus=1) as sampler:
        meter = GpuMeter(sampler, num_gpus=1)
    energy = energy_between([reading(0.0, 0), reading(seconds, 1_000_000)], meter=meter)

    assert (energy.joules == 1.0) is is_known
    assert ("renewed every 100 ms (at least 0.82 s)" in energy.problem) is not is_known


def test_a_gpu_counter_that_runs_backwards_is_no_energy(gpus: FakeNvml) -> None:
    with GpuSampler(num_gpus=1) as sampler:
        meter = GpuMeter(sampler, num_gpus=1)

    assert "ran backwards" in energy_between([reading(0.0, 5), reading(10.0, 4)], meter=meter).problem


def test_a_driver_without_the_counter_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeNvml(errors={"nvmlDeviceGetTotalEnergyConsumption": pynvml.NVMLError_NotSupported}))
    with GpuSampler(num_gpus=2) as sampler:
        meter = GpuMeter(sampler, num_gpus=2)

    assert meter.problem == "the driver has no energy counter of GPU 0, as before Volta, or under MIG"


def test_gpus_of_other_hosts_are_not_guessed(gpus: FakeNvml) -> None:
    with GpuSampler(num_gpus=16) as sampler:
        meter = GpuMeter(sampler, num_gpus=16)

    assert meter.problem == "the driver on this host tells of 2 of the 16 GPUs of the run"
