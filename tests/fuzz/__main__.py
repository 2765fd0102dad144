"""``python -m tests.fuzz``: many inputs for each reader, on all cores; see CONTRIBUTING."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import resource
import signal
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from time import monotonic
from typing import Any, Final

from tests.fuzz.campaign import Fault, content_of, opened, set_alarm, try_input, warm_up
from tests.fuzz.targets import READERS, TARGETS

_CHUNK: Final = 10_000
_MEMORY_BYTES: Final = 6 << 30
_HANG_SEC: Final = 60.0
_FAULTS: Final = Path("fuzz-faults")


@dataclass(slots=True)
class _Found:
    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_number: int = 0
    faults: Counter[str] = field(default_factory=Counter)


def main(words: Sequence[str] | None = None) -> int:
    """Fuzz the named readers, or all; return 1 if an input broke a rule."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"default: all of {', '.join(READERS)}")
    parser.add_argument(
        "--inputs",
        type=int,
        default=100_000,
        help="inputs for each reader, shared out among its formats (default: 100000)",
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--replay", type=int, metavar="NUMBER", help="run one input of a target, print it and its fault"
    )
    arguments = parser.parse_args(words)
    for name in arguments.readers:
        if name not in READERS and name not in TARGETS:
            parser.error(f"no reader {name!r}; there are {', '.join(READERS)}")
    if arguments.replay is not None:
        if len(arguments.readers) != 1 or arguments.readers[0] not in TARGETS:
            parser.error(f"--replay needs one of {', '.join(TARGETS)}")
        return _replay(arguments.readers[0], number=arguments.replay)
    return _run(arguments)


def _replay(name: str, *, number: int) -> int:
    set_alarm()
    with opened(name) as target:
        print(content_of(target, name=name, number=number)[:4000])
        warm_up(target)
        fault, seconds = try_input(target, name=name, number=number, has_limit=True)
    print(f"{seconds:.3f} s")
    if fault is not None:
        print(f"{fault.kind}\n{fault.detail}")
    return int(fault is not None)


def _run(arguments: argparse.Namespace) -> int:
    context = multiprocessing.get_context("fork")
    jobs: Any = context.Queue()
    results: Any = context.Queue()
    readers = {name: READERS.get(name, (name,)) for name in arguments.readers or READERS}
    names = [name for targets in readers.values() for name in targets]
    num_jobs = 0
    for name, first, count in _chunks(readers, arguments=arguments):
        jobs.put((name, first, count))
        num_jobs += 1
    for _ in range(arguments.processes):
        jobs.put(None)
    workers = [context.Process(target=_work, args=(jobs, results)) for _ in range(arguments.processes)]
    for worker in workers:
        worker.start()
    found = _collected(results, num_jobs=num_jobs, workers=workers, names=names)
    for worker in workers:
        worker.join()
    return _report(found, readers=readers)


def _chunks(readers: Mapping[str, Sequence[str]], *, arguments: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Return the target, first number and count of each piece of work; every target's first pieces come first."""
    chunks = []
    for targets in readers.values():
        last = arguments.first + math.ceil(arguments.inputs / len(targets))
        for name in targets:
            for first in range(arguments.first, last, _CHUNK):
                chunks.append((name, first, min(_CHUNK, last - first)))
    return sorted(chunks, key=lambda chunk: chunk[1])


def _work(jobs: Any, results: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    set_alarm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reports
    while (job := jobs.get()) is not None:
        name, first, count = job
        total, slowest, slowest_number = 0.0, 0.0, first
        faults: list[Fault] = []
        with opened(name) as target:
            warm_up(target)
            for number in range(first, first + count):
                results.put(("at", os.getpid(), name, number)) if number % 50 == 0 else None
                fault, seconds = try_input(target, name=name, number=number, has_limit=True)
                total += seconds
                if seconds > slowest:
                    slowest, slowest_number = seconds, number
                if fault is not None:
                    faults.append(fault)
        results.put(("done", name, count, total, slowest, slowest_number, faults))


def _collected(results: Any, *, num_jobs: int, workers: Sequence[Any], names: Sequence[str]) -> dict[str, _Found]:
    found = {name: _Found() for name in names}
    at: dict[int, tuple[str, int]] = {}
    done = 0
    start = told = heard = monotonic()
    while done < num_jobs:
        try:
            message = results.get(timeout=1.0)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the table is being printed
            print("\nstopped; what had ended:")
            _kill(workers)
            return found
        except Empty:
            if all(worker.is_alive() for worker in workers) and monotonic() - heard < _HANG_SEC:
                continue
            print(f"\nno answer for {_HANG_SEC:.0f} s, at or within 50 after: {at}")
            _kill(workers)
            for name, number in at.values():
                found[name].faults[f"hang from {number}"] += 1
            return found
        heard = monotonic()
        if message[0] == "at":
            at[message[1]] = message[2:]
            continue
        _, name, count, seconds, slowest, slowest_number, faults = message
        done += 1
        each = found[name]
        each.inputs += count
        each.seconds += seconds
        if slowest > each.slowest:
            each.slowest, each.slowest_number = slowest, slowest_number
        for fault in faults:
            if not each.faults[fault.kind]:
                _keep(fault)
            each.faults[fault.kind] += 1
        if monotonic() - told > 10:
            told = monotonic()
            num_inputs = sum(each.inputs for each in found.values())
            num_faults = sum(sum(each.faults.values()) for each in found.values())
            print(f"{told - start:6.0f} s  {num_inputs:,} inputs, {num_faults:,} faults", flush=True)
    return found


def _kill(workers: Sequence[Any]) -> None:
    for worker in workers:
        worker.kill()


def _keep(fault: Fault) -> None:
    """Save the first fault of its kind, with the command that runs it again."""
    _FAULTS.mkdir(exist_ok=True)
    name = fault.target.replace(" ", "-")
    path = _FAULTS / f"{name}-{fault.number}.txt"
    command = f'python -m tests.fuzz "{fault.target}" --replay {fault.number}'
    path.write_text(f"{command}\n\n{fault.kind}\n{fault.detail}\n", errors="backslashreplace")


def _report(found: Mapping[str, _Found], *, readers: Mapping[str, Sequence[str]]) -> int:
    """Print a table by reader, below each the formats that share it; return 1 if there are faults."""
    width = max(map(len, (*found, *readers))) + 2
    print(f"\n{'reader':{width}}  {'inputs':>9}  {'ms each':>7}  {'slowest ms':>10}  faults")
    for reader, targets in readers.items():
        if len(targets) > 1:
            print(_line(reader, [found[name] for name in targets], width=width))
        for name in targets:
            indent = "  " if len(targets) > 1 else ""
            print(_line(f"{indent}{name}", [found[name]], width=width))
            for kind, number in found[name].faults.most_common():
                print(f"    {number} x {kind}")
    print(_line("all", list(found.values()), width=width))
    is_faulty = any(each.faults for each in found.values())
    if is_faulty:
        print(f"the first input of each kind of fault is in {_FAULTS}/")
    return int(is_faulty)


def _line(name: str, each: Sequence[_Found], *, width: int) -> str:
    num_inputs = sum(one.inputs for one in each)
    mean = 1000 * sum(one.seconds for one in each) / max(num_inputs, 1)
    slowest = 1000 * max(one.slowest for one in each)
    num_faults = sum(sum(one.faults.values()) for one in each)
    return f"{name:{width}}  {num_inputs:9,}  {mean:7.2f}  {slowest:10.0f}  {num_faults}"


if __name__ == "__main__":
    sys.exit(main())
