"""Event files as real writers leave them, with steps and clocks of the test's choice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

START = 1_000_000.0
"""Clock at which a writer was made."""


def write_events(
    folder: Path,
    steps: Iterable[tuple[int, float, Mapping[str, float]]],
    *,
    start: float = START,
    suffix: str = "",
    is_tensor: bool = False,
) -> Path:
    """Write one event file, and return it.

    Args:
        folder: Made if it is not there.
        steps: Number, seconds since the start, and scalars by tag.
        start: Clock of the file's first event.
        suffix: End of its name.
        is_tensor: Scalars in the newer form.
    """
    before = set(folder.rglob("*tfevents*"))
    with mock.patch("time.time", return_value=start):
        writer = EventFileWriter(str(folder), filename_suffix=suffix)
    for event in events(steps, start=start, is_tensor=is_tensor):
        writer.add_event(event)
    writer.close()
    (file,) = set(folder.rglob("*tfevents*")) - before
    return file


def events(steps: Iterable[tuple[int, float, Mapping[str, float]]], *, start: float, is_tensor: bool) -> Iterator[Any]:
    """Yield an event for each scalar, as torch's SummaryWriter writes them: a microsecond apart."""
    for step, seconds, scalars in steps:
        for at, (tag, value) in enumerate(scalars.items()):
            if is_tensor:
                written = scalar_pb(tag, value)
            else:
                written = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            yield Event(wall_time=start + seconds + at * 1e-6, step=step, summary=written)
