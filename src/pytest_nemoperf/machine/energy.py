"""Energy counters: of the GPUs through the driver, of the host's processor packages through Linux's powercap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, Protocol

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.health import MIN_JUDGED_SEC, Energy

_ROOT: Final = Path("/")
_POWERCAP: Final = "sys/class/powercap"
_PACKAGE: Final = "package-"
"""Beginning of the name of a processor package's zone; others are of a part of it, or (psys) of the whole platform."""
_UJ_PER_J: Final = 1e6
_MAX_NOISE_PCT: Final = 5.0
"""Standard deviation above which a run is too short for its energy to say anything."""

NVML_PERIOD_SEC: Final = 0.1
"""Time between two values of the sensor that the driver's counter adds up: 100 ms on A100 and H100.

The sensor looks at 25% of that time only, always the same part: steps shorter than it may be seen unevenly. Yang et al.
2023, Part-time Power Measurements: nvidia-smi's Lack of Attention, https://arxiv.org/abs/2312.02741
"""
_RAPL_PERIOD_SEC: Final = 1e-3
"""The same of a processor's counter: about a millisecond (Intel SDM, volume 3B, RAPL interfaces: energy status)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyReading:
    """Counters at one moment.

    Attributes:
        time_sec: Monotonic clock, just before the counters were read.
        microjoules: Each counter, in a fixed order; empty if one of them can't be read.
    """

    time_sec: float
    microjoules: tuple[int, ...]


class EnergyMeter(Protocol):
    """Counters of the energy that a case's devices use.

    Attributes:
        source: Interface that they are read through.
        period_sec: Time between two values of a counter.
        problem: Reason that they can't be read; empty if they can.
    """

    source: Literal["nvml", "powercap"]
    period_sec: float
    problem: str

    def microjoules(self) -> tuple[int, ...]:
        """Return every counter now, in a fixed order; empty if one can't be read."""
        ...

    def range_of(self, index: int) -> int | None:
        """Return the largest value of a counter, after which it starts from 0 again; None if it never does."""
        ...


class PackageMeter:
    """Counters of the host's processor packages, without their memory; every process on them counts.

    Args:
        root: Folder of ``sys``.
    """

    source: Literal["nvml", "powercap"] = "powercap"
    period_sec = _RAPL_PERIOD_SEC

    def __init__(self, *, root: Path = _ROOT) -> None:
        self._zones: list[Path] = []
        self._ranges: list[int] = []
        self.problem = self._find_zones(root / _POWERCAP)

    def microjoules(self) -> tuple[int, ...]:
        """Return the counter of every package; empty if one can't be read."""
        values = []
        for zone in self._zones:
            value = _whole_number(zone / "energy_uj")
            if value is None:
                return ()
            values.append(value)
        return tuple(values)

    def range_of(self, index: int) -> int | None:
        """Return the largest value of a package's counter."""
        return self._ranges[index]

    def _find_zones(self, folder: Path) -> str:
        """Find the zones of packages; return the reason that there are none, or empty."""
        packages = []
        for zone in sorted(folder.glob("intel-rapl:*")):  # AMD's processors have this name too
            if _text(zone / "name").startswith(_PACKAGE):
                packages.append(zone)
        if not packages:
            return f"the host has no counter of its processors' energy in /{_POWERCAP}, as most virtual machines"
        for zone in packages:
            counter = zone / "energy_uj"
            try:
                counter.read_text(encoding="ascii")
            except PermissionError:
                return (
                    f"no permission to read /{_POWERCAP}/{zone.name}/energy_uj; "
                    f"let root run: chmod a+r /{_POWERCAP}/intel-rapl:*/energy_uj"
                )
            except OSError as error:
                return f"/{_POWERCAP}/{zone.name}/energy_uj can't be read: {error.strerror}"
            largest = _whole_number(zone / "max_energy_range_uj")
            if largest is None or _whole_number(counter) is None:
                return f"/{_POWERCAP}/{zone.name} holds no counter with a range"
            self._zones.append(zone)
            self._ranges.append(largest)
        return ""


def read_energy(meter: EnergyMeter, *, time_sec: float) -> EnergyReading | None:
    """Return the counters now; None of a meter that can't be read."""
    if meter.problem:
        return None
    return EnergyReading(time_sec=time_sec, microjoules=meter.microjoules())


def energy_between(readings: Sequence[EnergyReading], *, meter: EnergyMeter) -> Energy:
    """Return the energy from the first of successive readings to the last, or the reason that it is not known.

    A reading is up to a period old, evenly spread: a difference scatters with a standard deviation of period/sqrt(6).

    Args:
        readings: Within the measured steps, none of them left out: a counter may start from 0 once between two.
        meter: Meter that they were read from.
    """
    if meter.problem:
        return Energy(source=meter.source, problem=meter.problem)
    seconds = 0.0
    if readings:
        seconds = readings[-1].time_sec - readings[0].time_sec
    noise_sec = meter.period_sec / math.sqrt(6.0)
    least_sec = max(MIN_JUDGED_SEC, 100.0 * noise_sec / _MAX_NOISE_PCT)
    if seconds < least_sec:
        problem = (
            f"readings within the measured steps span {seconds:.2g} s, too little for a counter that is renewed every "
            f"{1000.0 * meter.period_sec:g} ms (at least {least_sec:.2g} s); more steps span more"
        )
        return Energy(source=meter.source, seconds=round(seconds, 6), problem=problem)
    microjoules = 0
    for start, end in pairwise(readings):
        difference = _difference(start, end, meter=meter)
        if difference is None:
            problem = f"a counter of {meter.source} could not be read, or ran backwards, during the run"
            return Energy(source=meter.source, seconds=round(seconds, 6), problem=problem)
        microjoules += difference
    if not microjoules:
        counters = count_text(len(readings[0].microjoules), "counter")
        return Energy(
            source=meter.source, seconds=round(seconds, 6), problem=f"{counters} of {meter.source} stood still"
        )
    return Energy(
        source=meter.source,
        joules=round(microjoules / _UJ_PER_J, 6),
        seconds=round(seconds, 6),
        noise_pct=round(100.0 * noise_sec / seconds, 3),
    )


def _difference(start: EnergyReading, end: EnergyReading, *, meter: EnergyMeter) -> int | None:
    """Return the energy between two readings over all counters; None if it is not known."""
    if not start.microjoules or len(start.microjoules) != len(end.microjoules):
        return None
    total = 0
    for index, (before, after) in enumerate(zip(start.microjoules, end.microjoules, strict=True)):
        difference = after - before
        if difference < 0:
            largest = meter.range_of(index)
            if largest is None:
                return None  # as after a reset of the driver
            difference += largest + 1
        total += difference
    return total


def _whole_number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    """Return the text of a kernel file; empty for one that can't be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
