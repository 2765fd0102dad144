"""State of the machine during a run's measured steps, and the problems that spoil the run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from pytest_nemoperf.errors import plural
from pytest_nemoperf.records.figures import Amount, Count, Finite, Positive

HEALTH_FILE = "health.json"
MAX_SLOWED_SHARE = 0.10
"""Share of samples in which a GPU may be slowed by heat or a power brake: a median over steps ignores it."""
MAX_FOREIGN_SHARE = 0.10
"""Part of the usable cores that others may take; an idle desktop or daemon stays below a tenth of it."""
MIN_IDLE_CORES = 1.0
"""With so many idle cores, other processes take nothing away from the ranks."""
MAX_STEAL_SHARE = 0.05
"""Part of the usable cores that the hypervisor may give to other guests: a direct loss of busy cores."""
MAX_THROTTLED_SHARE = 0.05
"""Part of its allowed time that a control group's quota may take away, for the same reason."""
MIN_JUDGED_SEC = 0.4
"""The kernel counts in hundredths of a second: in less time a tenth of a core can't be resolved."""

SLOWDOWNS: Mapping[str, str] = MappingProxyType(
    {
        "hw_slowdown": "its hardware (heat, power or an outside signal)",
        "hw_thermal_slowdown": "heat",
        "hw_power_brake": "the power brake of its supply",
        "sw_thermal_slowdown": "heat, through its driver",
    }
)
"""Reasons for low clocks that spoil a run; a software power cap is normal at full load, idling harmless."""
_NUM_NAMED = 3
HEALTH_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MinMedianMax:
    """Minimum, median and maximum of a figure over the samples."""

    low: Finite
    median: Finite
    high: Finite


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHealth:
    """One GPU while steps were measured.

    Attributes:
        gpu: Number among the visible GPUs, equal to the local rank.
        sm_clock_mhz: Clock of its processors; this and the others are None if the driver does not report them.
        memory_clock_mhz: Clock of its memory.
        temperature_c: Degrees Celsius.
        power_w: Power draw, watts.
        power_cap_w: Largest allowed power draw, watts.
        reasons: Share of samples by reason for clocks below the highest.
        num_memory_errors: New uncorrected errors during the run, start included.
        xids: Numbers of the driver errors during the run, start included.
        foreign_processes: Other processes that computed on it from before the ranks started to the end; always empty in
            a container with process ids of its own, which hides them.
    """

    gpu: Count
    sm_clock_mhz: MinMedianMax | None = None
    memory_clock_mhz: MinMedianMax | None = None
    temperature_c: MinMedianMax | None = None
    power_w: MinMedianMax | None = None
    power_cap_w: Amount | None = None
    reasons: Mapping[str, Amount] = field(default_factory=dict)
    num_memory_errors: Count = 0
    xids: tuple[Count, ...] = ()
    foreign_processes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuHealth:
    """The cores this session may use while steps were measured; shares are of those cores' time.

    Attributes:
        num_cores: Number of these cores.
        own_share: Used by this session's processes, the ranks included.
        foreign_share: Used by all others.
        idle_share: Not used.
        steal_share: Given to other guests by the hypervisor.
        throttled_share: Taken away by a control group's quota, of the time that the quota allows; None without a quota.
        frequency_mhz: Frequency of some of them; None if the kernel does not report it.
        foreign_processes: Share of each other busy process, by name, the largest first.
    """

    num_cores: Count
    own_share: Amount
    foreign_share: Amount
    idle_share: Amount
    steal_share: Amount
    throttled_share: Amount | None = None
    frequency_mhz: MinMedianMax | None = None
    foreign_processes: Mapping[str, Amount] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of the devices within the measured steps, without warm-up and without the work after the last step.

    Attributes:
        source: ``nvml``, the driver's counters of the run's GPUs, or ``powercap``, the kernel's of the host's processor
            packages, on which everything that runs on the host counts.
        joules: Energy over all devices; None if it is not known.
        seconds: Time between the first and the last reading.
        noise_pct: Standard deviation by the age of a reading, percent; None if the energy is not known.
        problem: Reason that the energy is not known; empty if it is.
    """

    source: Literal["nvml", "powercap"]
    joules: Positive | None = None
    seconds: Amount = 0.0
    noise_pct: Amount | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """State of the machine during one run, seen from outside its ranks; ``health.json`` of a run directory.

    Attributes:
        seconds: Time between the first and the last sample that count.
        num_samples: Samples that count: those after warm-up, or the last ones if progress is reported too late.
        is_measured_steps: They lie within the measured steps.
        cpu: Cores of the host; None if the kernel does not report them.
        gpus: GPUs of the ranks.
        energy: Energy of the GPUs, or of the host's processors where there are none; None if it was not watched.
    """

    seconds: Amount
    num_samples: Count
    is_measured_steps: bool
    cpu: CpuHealth | None = None
    gpus: tuple[GpuHealth, ...] = ()
    energy: Energy | None = None
    schema_version: Literal[1] = HEALTH_SCHEMA_VERSION


def health_problems(report: HealthReport | None) -> list[str]:
    """Return the reasons not to judge a run in its machine: a device or host that was slowed, broken or shared.

    Each sentence has the evidence, the limit and a remedy. A GPU at its software power cap is healthy.
    """
    if report is None:
        return []
    problems: list[str] = []
    for gpu in report.gpus:
        problems += _gpu_problems(gpu, report=report)
    if report.cpu is not None and report.seconds >= MIN_JUDGED_SEC:
        problems += _cpu_problems(report.cpu)
    return problems


def sm_clocks_mhz(report: HealthReport | None) -> tuple[float, ...]:
    """Return the median clock of each GPU; empty unless the driver reports it for all."""
    return _medians_of_gpus(report, figure="sm_clock_mhz")


def gpu_powers_w(report: HealthReport | None) -> tuple[float, ...]:
    """Return the median power of each GPU; empty unless the driver reports it for all."""
    return _medians_of_gpus(report, figure="power_w")


def energy_noise_pct(report: HealthReport | None) -> float | None:
    """Return the scatter of the energy by the age of its readings, percent; None if the energy is not known."""
    if report is None or report.energy is None:
        return None
    return report.energy.noise_pct


def _medians_of_gpus(report: HealthReport | None, *, figure: Literal["sm_clock_mhz", "power_w"]) -> tuple[float, ...]:
    """Return the median of a figure of each GPU; empty unless the driver reports it for all."""
    if report is None:
        return ()
    medians = []
    for gpu in report.gpus:
        values: MinMedianMax | None = getattr(gpu, figure)
        if values is None:
            return ()
        medians.append(values.median)
    return tuple(medians)


def _gpu_problems(gpu: GpuHealth, *, report: HealthReport) -> Iterator[str]:
    for reason, cause in SLOWDOWNS.items():
        share = gpu.reasons.get(reason, 0.0)
        if share > MAX_SLOWED_SHARE:
            yield (
                f"GPU {gpu.gpu} was slowed by {cause} in {share:.0%} of {report.num_samples} samples "
                f"({_clock_text(gpu)}; allowed {MAX_SLOWED_SHARE:.0%}); look after its cooling and power, run again"
            )
    if gpu.num_memory_errors:
        yield (
            f"GPU {gpu.gpu} counted {gpu.num_memory_errors} uncorrected memory errors during the run (allowed 0); "
            "reset or replace it"
        )
    if gpu.xids:
        numbers = ", ".join(map(str, gpu.xids))
        yield (
            f"GPU {gpu.gpu} reported Xid {numbers} during the run (allowed: none); "
            "look it up in NVIDIA's list of Xid errors and in the kernel's log"
        )
    if gpu.foreign_processes:
        yield (
            f"GPU {gpu.gpu} was shared with {_joined(gpu.foreign_processes)}, there before the ranks and still there "
            "after them (allowed: none); end it, or choose another GPU with CUDA_VISIBLE_DEVICES"
        )


def _cpu_problems(cpu: CpuHealth) -> Iterator[str]:
    idle_cores = cpu.idle_share * cpu.num_cores
    if cpu.foreign_share >= MAX_FOREIGN_SHARE and idle_cores < MIN_IDLE_CORES:
        yield (
            f"other processes took {cpu.foreign_share:.0%} of the {_cores_text(cpu)} and left {idle_cores:.2f} cores "
            f"idle ({_load_text(cpu)}; allowed {MAX_FOREIGN_SHARE:.0%} where less than {MIN_IDLE_CORES:g} core is "
            "idle); end them, or run when the machine is quiet"
        )
    if cpu.steal_share >= MAX_STEAL_SHARE:
        yield (
            f"the hypervisor gave {cpu.steal_share:.1%} of the {_cores_text(cpu)} to other guests "
            f"(allowed {MAX_STEAL_SHARE:.0%}); run on a machine with cores of its own, or again later"
        )
    if cpu.throttled_share is not None and cpu.throttled_share >= MAX_THROTTLED_SHARE:
        yield (
            f"the control group's quota stopped this session for {cpu.throttled_share:.1%} of the time of the cores "
            f"it allows (limit {MAX_THROTTLED_SHARE:.0%}); raise the container's CPU limit, or use fewer ranks or "
            "threads"
        )


def _clock_text(gpu: GpuHealth) -> str:
    parts = []
    if gpu.sm_clock_mhz is not None:
        parts.append(f"SM clock {gpu.sm_clock_mhz.low:.0f} to {gpu.sm_clock_mhz.high:.0f} MHz")
    if gpu.temperature_c is not None:
        parts.append(f"up to {gpu.temperature_c.high:.0f} C")
    if gpu.power_w is not None:
        power = f"{gpu.power_w.high:.0f}"
        if gpu.power_cap_w is not None:
            power += f" of {gpu.power_cap_w:.0f}"
        parts.append(f"up to {power} W")
    return ", ".join(parts) or "clocks not told"


def _load_text(cpu: CpuHealth) -> str:
    largest = sorted(cpu.foreign_processes.items(), key=lambda item: -item[1])[:_NUM_NAMED]
    if not largest:
        return "none that can be seen from here"
    return ", ".join([f"{name} {share:.0%}" for name, share in largest])


def _cores_text(cpu: CpuHealth) -> str:
    return f"{cpu.num_cores} {plural('core', number=cpu.num_cores)}"


def _joined(names: Sequence[str]) -> str:
    named = list(names[:_NUM_NAMED])
    if len(names) > _NUM_NAMED:
        named.append(f"{len(names) - _NUM_NAMED} more")
    return ", ".join(named)
