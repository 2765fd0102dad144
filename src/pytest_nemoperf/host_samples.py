"""Who uses this host's cores, sampled from the kernel's own counts: this session, others, other guests, nobody."""

from __future__ import annotations

import os
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_nemoperf.health import CpuHealth, MinMedianMax
from pytest_nemoperf.processor import available_cores, throttled_sec

_ROOT = Path("/")
_KHZ_PER_MHZ = 1000
_MOST_FREQUENCIES = 8
"""Cores whose frequency is read: each reading may interrupt that core."""
_SEEN_SHARE = 0.01
_MOST_PROCESSES = 20
_LONGEST_LINE = 1024
# Places in /proc/<pid>/stat behind the name in brackets, and of a cpu line in /proc/stat; see proc(5).
_PARENT, _OWN_TIMES, _CHILDREN_TIMES = 1, slice(11, 13), slice(13, 15)
_USER, _NICE, _SYSTEM, _IDLE, _IOWAIT, _STEAL = 0, 1, 2, 3, 4, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSample:
    """Seconds since some beginning, or between two samples, summed over the cores this session may use.

    Attributes:
        used_sec: In which processes ran; interrupts are nobody's and left out.
        idle_sec: In which nothing ran.
        steal_sec: Given to other guests.
        own_sec: Run by this session's processes, ended ones included.
        foreign: Name, and seconds run, of every other process by its id.
        throttled_sec: In which a quota stopped a control group that this session is in, by group; none without one.
        frequency_mhz: Median over some cores; None if not told.
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
    """Takes samples.

    Args:
        root: Where ``/proc`` and ``/sys`` are found.
        own_pid: The process whose descendants, it included, are this session.
        cores: Numbers of the cores it may use.
    """

    def __init__(self, *, root: Path = _ROOT, own_pid: int | None = None, cores: Collection[int] | None = None) -> None:
        self._root = root
        self._own_pid = os.getpid() if own_pid is None else own_pid
        self._cores = frozenset(os.sched_getaffinity(0) if cores is None else cores)
        self._ticks_per_sec = os.sysconf("SC_CLK_TCK")

    @property
    def num_cores(self) -> int:
        """How many cores this session may use."""
        return len(self._cores)

    @property
    def num_allowed_cores(self) -> int:
        """How many of them quotas let this session keep busy."""
        return available_cores(root=self._root, affinity=len(self._cores))

    def sample(self) -> HostSample | None:
        """Return what the kernel has counted so far; None where it does not tell, as outside Linux."""
        counts = self._core_counts()
        if not counts:
            return None
        used, idle, steal = (sum(column) / self._ticks_per_sec for column in zip(*counts, strict=True))
        processes = {process.pid: process for process in self._processes()}
        own = _descendants(self._own_pid, parents={pid: process.parent for pid, process in processes.items()})
        return HostSample(
            used_sec=used,
            idle_sec=idle,
            steal_sec=steal,
            own_sec=sum(process.seconds + process.children_sec for pid, process in processes.items() if pid in own),
            foreign={pid: (each.name, each.seconds) for pid, each in processes.items() if pid not in own},
            throttled_sec=throttled_sec(root=self._root),
            frequency_mhz=self._frequency_mhz(),
        )

    def _core_counts(self) -> list[tuple[int, int, int]]:
        """Return ticks (used, idle, stolen) of each core; waiting for a disk is idling."""
        counts = []
        for line in _read(self._root / "proc/stat").splitlines():
            name, *fields = line.split()
            if name[:3] != "cpu" or not name[3:].isdecimal() or int(name[3:]) not in self._cores:
                continue
            ticks = [int(field) for field in fields]
            used = ticks[_USER] + ticks[_NICE] + ticks[_SYSTEM]
            counts.append((used, ticks[_IDLE] + ticks[_IOWAIT], ticks[_STEAL]))
        return counts

    def _processes(self) -> Iterator[_Process]:
        """Yield every process there is; those that end meanwhile are left out."""
        for entry in os.scandir(self._root / "proc"):
            if not entry.name.isdecimal():
                continue
            head, _, tail = _read_line(f"{entry.path}/stat").rpartition(")")
            fields = tail.split()
            if fields:
                own, children = (
                    sum(map(int, fields[each])) / self._ticks_per_sec for each in (_OWN_TIMES, _CHILDREN_TIMES)
                )
                yield _Process(
                    pid=int(entry.name),
                    parent=int(fields[_PARENT]),
                    name=head.partition("(")[2],
                    seconds=own,
                    children_sec=children,
                )

    def _frequency_mhz(self) -> float | None:
        folder = self._root / "sys/devices/system/cpu"
        texts = (
            _read(folder / f"cpu{core}/cpufreq/scaling_cur_freq") for core in sorted(self._cores)[:_MOST_FREQUENCIES]
        )
        found = [int(text) / _KHZ_PER_MHZ for text in texts if text.strip().isdecimal()]
        return statistics.median(found) if found else None


def use_between(start: HostSample, end: HostSample) -> HostSample:
    """Return what passed from one sample to another; of other processes only those that worked most.

    What is kept of a long run must not grow with the number of processes on the host.
    """
    foreign = {
        pid: (name, now - (start.foreign[pid][1] if pid in start.foreign else 0.0))
        for pid, (name, now) in end.foreign.items()
    }
    largest = sorted(foreign.items(), key=lambda item: -item[1][1])[:_MOST_PROCESSES]
    return HostSample(
        used_sec=end.used_sec - start.used_sec,
        idle_sec=end.idle_sec - start.idle_sec,
        steal_sec=end.steal_sec - start.steal_sec,
        own_sec=end.own_sec - start.own_sec,
        foreign={pid: (name, seconds) for pid, (name, seconds) in largest if seconds > 0},
        throttled_sec={
            group: seconds - start.throttled_sec[group]
            for group, seconds in end.throttled_sec.items()
            if group in start.throttled_sec
        },
        frequency_mhz=end.frequency_mhz,
    )


def cpu_health(uses: Sequence[HostSample], *, num_cores: int, num_allowed_cores: int | None = None) -> CpuHealth | None:
    """Return how the cores' time was shared out over some intervals; None if no time passed in them.

    What others used is what was used less what this session used: so processes count that can't be seen from a
    container, or that ended between two samples. Their names are of those that can be seen.

    Args:
        uses: Of each interval, from use_between.
        num_cores: How many cores this session may use.
        num_allowed_cores: How many of them quotas let it keep busy; None for all.
    """
    used, idle, steal, own = (
        sum(getattr(use, name) for use in uses) for name in ("used_sec", "idle_sec", "steal_sec", "own_sec")
    )
    whole = used + idle + steal
    if whole <= 0:
        return None
    throttled = _most_throttled_sec(uses)
    allowed = whole * (num_allowed_cores or num_cores) / num_cores
    return CpuHealth(
        num_cores=num_cores,
        own_share=_share(own, whole=whole),
        foreign_share=_share(used - own, whole=whole),
        idle_share=_share(idle, whole=whole),
        steal_share=_share(steal, whole=whole),
        throttled_share=None if throttled is None else _share(throttled, whole=allowed),
        frequency_mhz=span_of([use.frequency_mhz for use in uses if use.frequency_mhz is not None]),
        foreign_processes=_foreign_processes(uses, whole=whole),
    )


def span_of(values: Sequence[float]) -> MinMedianMax | None:
    """Return the lowest, the median and the highest of some values; None of none."""
    return MinMedianMax(low=min(values), median=statistics.median(values), high=max(values)) if values else None


def _most_throttled_sec(uses: Sequence[HostSample]) -> float | None:
    """Return for how long the group that was stopped the longest was; None without a quota.

    A group that is stopped stops those in it, so sums over groups would count the same time twice.
    """
    groups = {group for use in uses for group in use.throttled_sec}
    return max((sum(use.throttled_sec.get(group, 0.0) for use in uses) for group in groups), default=None)


def _foreign_processes(uses: Sequence[HostSample], *, whole: float) -> dict[str, float]:
    """Return the shares of the processes that worked notably, added up over those of the same name."""
    seconds: dict[str, dict[int, float]] = {}
    for use in uses:
        for pid, (name, spent) in use.foreign.items():
            by_pid = seconds.setdefault(name, {})
            by_pid[pid] = by_pid.get(pid, 0.0) + spent
    sums = {_who(name, pids=list(by_pid)): sum(by_pid.values()) for name, by_pid in seconds.items()}
    largest = sorted(sums.items(), key=lambda item: -item[1])
    return {who: _share(spent, whole=whole) for who, spent in largest if spent >= _SEEN_SHARE * whole}


def _who(name: str, *, pids: Sequence[int]) -> str:
    return f"{name} (process {pids[0]})" if len(pids) == 1 else f"{name} ({len(pids)} processes)"


def _share(part: float, *, whole: float) -> float:
    """Return a share with four digits; counts of different clocks may leave it a little outside 0 to 1."""
    return round(min(1.0, max(0.0, part / whole)), 4)


def _descendants(pid: int, *, parents: Mapping[int, int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for child, parent in parents.items():
        children.setdefault(parent, []).append(child)
    found, waiting = {pid}, [pid]
    while waiting:
        fresh = [child for child in children.get(waiting.pop(), []) if child not in found]
        found.update(fresh)
        waiting += fresh
    return found


def _read_line(path: str) -> str:
    """Return a line of the kernel's, in half the time that a file object takes: there are thousands of them."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # the process is gone
        return ""
    try:
        return os.read(descriptor, _LONGEST_LINE).decode(errors="replace")
    except ProcessLookupError:  # gone just now
        return ""
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    with suppress(OSError):  # not Linux, or the process is gone
        return path.read_text(encoding="utf-8", errors="replace")
    return ""
