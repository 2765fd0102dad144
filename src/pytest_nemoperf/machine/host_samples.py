"""Use of this host's cores by this session, other processes and other guests, from the kernel's counts."""

from __future__ import annotations

import os
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_nemoperf.machine.processor import available_cores, throttled_sec
from pytest_nemoperf.records.health import CpuHealth, MinMedianMax

_ROOT = Path("/")
_KHZ_PER_MHZ = 1000
_MAX_FREQUENCIES = 8
"""Number of cores of which the frequency is read: each reading may interrupt that core."""
_MIN_SHOWN_SHARE = 0.01
_MAX_PROCESSES = 20
_MAX_LINE_BYTES = 1024
# Fields of /proc/<pid>/stat after the name in brackets; see proc(5).
_PARENT = 1
_OWN_TIMES = slice(11, 13)
_CHILDREN_TIMES = slice(13, 15)
# Fields of a cpu line of /proc/stat; see proc(5).
_USER, _NICE, _SYSTEM, _IDLE, _IOWAIT, _STEAL = 0, 1, 2, 3, 4, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """Seconds since the host's start, or between two samples, summed over the cores this session may use.

    Attributes:
        used_sec: Time of processes; interrupts belong to none and are left out.
        idle_sec: Time without any process.
        steal_sec: Time that the hypervisor gave to other guests.
        own_sec: Time of this session's processes, ended ones included.
        foreign: Name and time of every other process, by its id.
        throttled_sec: Time for which a quota stopped this session's control groups, by group with a quota.
        frequency_mhz: Median over some cores; None if unknown.
    """

    used_sec: float
    idle_sec: float
    steal_sec: float
    own_sec: float
    foreign: Mapping[int, tuple[str, float]]
    throttled_sec: Mapping[str, float]
    frequency_mhz: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    pid: int
    parent: int
    name: str
    seconds: float
    children_sec: float  # of those that have ended and were waited for


class HostSampler:
    """Sampler of the kernel's counts.

    Args:
        root: Folder of ``proc`` and ``sys``.
        own_pid: Process that is, with its descendants, this session; None for this process.
        cores: Numbers of the cores that this session may use; None for all that the system allows.
    """

    def __init__(self, *, root: Path = _ROOT, own_pid: int | None = None, cores: Collection[int] | None = None) -> None:
        self._root = root
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._cores = frozenset(os.sched_getaffinity(0) if cores is None else cores)
        self._ticks_per_sec = os.sysconf("SC_CLK_TCK")

    @property
    def num_cores(self) -> int:
        """Number of cores that this session may use."""
        return len(self._cores)

    @property
    def num_allowed_cores(self) -> int:
        """Number of cores that quotas let this session keep busy."""
        return available_cores(root=self._root, affinity=len(self._cores))

    def sample(self) -> HostSample | None:
        """Return the kernel's counts so far, or None if it has none, as outside Linux."""
        times = self._core_times()
        if times is None:
            return None
        used, idle, steal = times
        processes = list(self._processes())
        own = _descendants(self._own_pid, processes=processes)
        own_sec = 0.0
        foreign: dict[int, tuple[str, float]] = {}
        for process in processes:
            if process.pid in own:
                own_sec += process.seconds + process.children_sec
            else:
                foreign[process.pid] = (process.name, process.seconds)
        return HostSample(
            used_sec=used,
            idle_sec=idle,
            steal_sec=steal,
            own_sec=own_sec,
            foreign=foreign,
            throttled_sec=throttled_sec(root=self._root),
            frequency_mhz=self._frequency_mhz(),
        )

    def _core_times(self) -> tuple[float, float, float] | None:
        """Return seconds (used, idle, stolen) over all cores; waiting for a disk is idle. None without counts."""
        num_cores = used = idle = steal = 0
        for line in _read(self._root / "proc/stat").splitlines():
            name, *fields = line.split()
            if name[:3] != "cpu" or not name[3:].isdecimal() or int(name[3:]) not in self._cores:
                continue
            ticks = list(map(int, fields))
            num_cores += 1
            used += ticks[_USER] + ticks[_NICE] + ticks[_SYSTEM]
            idle += ticks[_IDLE] + ticks[_IOWAIT]
            steal += ticks[_STEAL]
        if not num_cores:
            return None
        return used / self._ticks_per_sec, idle / self._ticks_per_sec, steal / self._ticks_per_sec

    def _processes(self) -> Iterator[_Process]:
        """Yield all processes but those that end during the listing."""
        for entry in os.scandir(self._root / "proc"):
            if not entry.name.isdecimal():
                continue
            head, _, tail = _read_line(f"{entry.path}/stat").rpartition(")")
            fields = tail.split()
            if fields:
                yield _Process(
                    pid=int(entry.name),
                    parent=int(fields[_PARENT]),
                    name=head.partition("(")[2],
                    seconds=sum(map(int, fields[_OWN_TIMES])) / self._ticks_per_sec,
                    children_sec=sum(map(int, fields[_CHILDREN_TIMES])) / self._ticks_per_sec,
                )

    def _frequency_mhz(self) -> float | None:
        folder = self._root / "sys/devices/system/cpu"
        frequencies: list[float] = []
        for core in sorted(self._cores)[:_MAX_FREQUENCIES]:
            text = _read(folder / f"cpu{core}/cpufreq/scaling_cur_freq").strip()
            if text.isdecimal():
                frequencies.append(int(text) / _KHZ_PER_MHZ)
        if not frequencies:
            return None
        return statistics.median(frequencies)


def use_between(start: HostSample, end: HostSample) -> HostSample:
    """Return the time between two samples, with only the busiest foreign processes.

    Samples of a long run must not grow with the number of processes on the host.
    """
    foreign: list[tuple[int, tuple[str, float]]] = []
    for pid, (name, end_sec) in end.foreign.items():
        _, start_sec = start.foreign.get(pid, (name, 0.0))
        if end_sec > start_sec:
            foreign.append((pid, (name, end_sec - start_sec)))
    foreign.sort(key=lambda process: -process[1][1])
    throttled_sec: dict[str, float] = {}
    for group, end_sec in end.throttled_sec.items():
        if group in start.throttled_sec:
            throttled_sec[group] = end_sec - start.throttled_sec[group]
    return HostSample(
        used_sec=end.used_sec - start.used_sec,
        idle_sec=end.idle_sec - start.idle_sec,
        steal_sec=end.steal_sec - start.steal_sec,
        own_sec=end.own_sec - start.own_sec,
        foreign=dict(foreign[:_MAX_PROCESSES]),
        throttled_sec=throttled_sec,
        frequency_mhz=end.frequency_mhz,
    )


def cpu_health(uses: Sequence[HostSample], *, num_cores: int, num_allowed_cores: int | None = None) -> CpuHealth | None:
    """Return the shares of the cores' time over some intervals, or None if no time passed.

    Foreign time is all used time less this session's. It includes processes that can't be seen from a container, or
    that ended between two samples; only visible ones are named.

    Args:
        uses: Use in each interval, from use_between.
        num_cores: Number of cores that this session may use.
        num_allowed_cores: Number of cores that quotas let it keep busy; None for all.
    """
    used = idle = steal = own = 0.0
    for use in uses:
        used += use.used_sec
        idle += use.idle_sec
        steal += use.steal_sec
        own += use.own_sec
    whole = used + idle + steal
    if whole <= 0:
        return None
    throttled_share = None
    throttled = _most_throttled_sec(uses)
    if throttled is not None:
        throttled_share = _share(throttled, whole=whole * (num_allowed_cores or num_cores) / num_cores)
    return CpuHealth(
        num_cores=num_cores,
        own_share=_share(own, whole=whole),
        foreign_share=_share(used - own, whole=whole),
        idle_share=_share(idle, whole=whole),
        steal_share=_share(steal, whole=whole),
        throttled_share=throttled_share,
        frequency_mhz=min_median_max([use.frequency_mhz for use in uses]),
        foreign_processes=_foreign_processes(uses, whole=whole),
    )


def min_median_max(values: Sequence[float | None]) -> MinMedianMax | None:
    """Return minimum, median and maximum of the known values, or None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return MinMedianMax(low=min(known), median=statistics.median(known), high=max(known))


def _most_throttled_sec(uses: Sequence[HostSample]) -> float | None:
    """Return the throttled time of the group that was stopped longest; None without a quota.

    The times of groups are not added: a stopped group also stops the groups inside it.
    """
    totals: dict[str, float] = {}
    for use in uses:
        for group, seconds in use.throttled_sec.items():
            totals[group] = totals.get(group, 0.0) + seconds
    return max(totals.values(), default=None)


def _foreign_processes(uses: Sequence[HostSample], *, whole: float) -> dict[str, float]:
    """Return the shares of foreign processes, added up by name, without those below _MIN_SHOWN_SHARE."""
    seconds: dict[str, float] = {}
    pids: dict[str, list[int]] = {}
    for use in uses:
        for pid, (name, used) in use.foreign.items():
            seconds[name] = seconds.get(name, 0.0) + used
            if pid not in pids.setdefault(name, []):
                pids[name].append(pid)
    shares: dict[str, float] = {}
    for name, used in sorted(seconds.items(), key=lambda item: -item[1]):
        if used >= _MIN_SHOWN_SHARE * whole:
            which = f"process {pids[name][0]}"
            if len(pids[name]) > 1:
                which = f"{len(pids[name])} processes"
            shares[f"{name} ({which})"] = _share(used, whole=whole)
    return shares


def _share(part: float, *, whole: float) -> float:
    """Return a share of 0 to 1 with four digits; counts of different clocks may exceed the whole a little."""
    return round(min(1.0, max(0.0, part / whole)), 4)


def _descendants(pid: int, *, processes: Iterable[_Process]) -> set[int]:
    """Return the ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for process in processes:
        children.setdefault(process.parent, []).append(process.pid)
    descendants = {pid}
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            if child not in descendants:
                descendants.add(child)
                waiting.append(child)
    return descendants


def _read_line(path: str) -> str:
    """Return the line of a kernel file; twice as fast as a file object, as there may be thousands of processes."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # the process has ended
        return ""
    try:
        return os.read(descriptor, _MAX_LINE_BYTES).decode(errors="replace")
    except ProcessLookupError:  # it has ended just now
        return ""
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    with suppress(OSError):  # not Linux, or the file is missing
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
