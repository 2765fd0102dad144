"""TensorBoard's event files: scalars of a run by step, and the clock at which they were written.

The frames of the records are read here and not by TensorBoard's loaders, which take a broken record for the end of the
file: the steps after it would be missing without a word.
"""

from __future__ import annotations

import functools
import io
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.log_format import WALL_TIME, LogFormat
from pytest_nemoperf.logs.rows import FileRows, LogRow

EVENT_FILES: Final = "*tfevents*"
"""Pattern of their names."""
_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_MAX_BYTES: Final = 1 << 18
"""Larger records hold pictures, graphs or histograms; their checksums would take minutes."""
_MAX_SHOWN_TAGS: Final = 8
_MAX_REPEATS: Final = 2  # a trainer sums up at its end what it logged at its last step


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """Scalars of one step in one file, and the clock at which the first of them was written."""

    wall_time: float
    values: dict[str, float] = field(default_factory=dict)


class _EventFile:
    """Scalars of one file.

    Attributes:
        path: The file.
        start: Clock of its first event, which its writer writes when it is made; None if there is no event.
        steps: Scalars of the format by step.
        tags: Tags of all scalars.
        torn_bytes: Bytes of a record at the end that is not whole.
    """

    def __init__(self, path: Path, log_format: LogFormat) -> None:
        self.path = path
        self.start: float | None = None
        self.steps: dict[int, _Step] = {}
        self.tags: set[str] = set()
        self.torn_bytes = 0
        self._quantities: dict[str, list[str]] = {}
        for quantity, tag in log_format.fields.items():
            if tag != WALL_TIME:
                self._quantities.setdefault(tag, []).append(quantity)
        self._last_step: dict[str, int] = {}
        self._num_values: Counter[str] = Counter()

    def add(self, event: Any, *, where: str) -> None:
        """Take the scalars of an event."""
        if self.start is None:
            self.start = event.wall_time
        for value in event.summary.value:
            if not _is_scalar(value):
                continue
            self.tags.add(value.tag)
            quantities = self._quantities.get(value.tag)
            if quantities is None and self._quantities:
                continue
            self._check_step(value.tag, step=event.step, where=where)
            step = self.steps.setdefault(event.step, _Step(wall_time=event.wall_time))
            for quantity in quantities or ():
                step.values[quantity] = _number(value, where=where)

    def check_steps(self) -> None:
        """Refuse scalars that were all written without their step."""
        for tag, number in self._num_values.items():
            if len(self.steps) == 1 and number > _MAX_REPEATS:
                raise RecordError(
                    f"{self.path}: all {number} values of {tag} are of step {self._last_step[tag]}; let the program "
                    "give its writer the number of the step"
                )

    def _check_step(self, tag: str, *, step: int, where: str) -> None:
        last = self._last_step.get(tag, step)
        if step < last:
            raise RecordError(
                f"{where}: {tag} of step {step} after that of step {last}: two runs wrote into one file; give each "
                "run a folder of its own"
            )
        if step < 0:
            raise RecordError(f"{where}: {tag} of step {step}; steps count from 0")
        self._last_step[tag] = step
        self._num_values[tag] += 1


class _TornRecordError(Exception):
    """The file ends within a record."""


def read_event_rows(paths: Sequence[Path], log_format: LogFormat) -> list[LogRow]:
    """Return the steps of a run; see read_event_files.

    Raises:
        RecordError: As there.
    """
    return list(read_event_files(paths, log_format).rows)


def read_event_files(paths: Sequence[Path], log_format: LogFormat) -> FileRows:
    """Return the steps of a run from its event files, one row a step.

    A step's scalar is the last one written for it. The first step of a file has ``start_time_sec``, the clock of the
    file's first event, if the format asks for the clock: no earlier step tells when it began.

    Args:
        paths: Event files of one run, or folders of them; a run that was started again has several.
        log_format: Tag by quantity; WALL_TIME stands for the clock.

    Raises:
        RecordError: If there are no event files or no scalars of the format in them, a record is broken, or steps go
            backwards.
    """
    parse = _event_parser()
    files = [_read_file(path, log_format, parse=parse) for path in event_files(paths)]
    _check_any(files, log_format=log_format)
    with_steps = [file for file in files if file.steps]
    with_steps.sort(key=lambda file: (file.start or 0.0, str(file.path)))
    _check_one_run(with_steps)
    rows: list[LogRow] = []
    for file in with_steps:
        rows += _rows_of(file, log_format=log_format)
    notes = []
    for file in files:
        if file.torn_bytes:
            notes.append(f"{file.path}: the last record is not finished ({file.torn_bytes} bytes); it was left out")
    return FileRows(rows=tuple(rows), num_lines=len(rows), notes=tuple(notes))


def event_files(paths: Sequence[Path]) -> list[Path]:
    """Return the event files among paths and in the folders among them, in order of their names.

    Raises:
        RecordError: If there are none.
    """
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found |= {file for file in path.rglob(EVENT_FILES) if file.is_file()}
        else:
            found.add(path)
    if not found:
        shown = ", ".join(map(str, paths)) or "the paths given"
        raise RecordError(f"{shown}: no event files ({EVENT_FILES}); let the program write them, or name their folder")
    return sorted(found)


def _rows_of(file: _EventFile, *, log_format: LogFormat) -> Iterator[LogRow]:
    clock = next((name for name, tag in log_format.fields.items() if tag == WALL_TIME), "")
    for number, step in enumerate(sorted(file.steps)):
        scalars = file.steps[step]
        values = dict(scalars.values)
        if clock:
            values[clock] = scalars.wall_time
        if clock == "end_time_sec" and number == 0 and file.start is not None:
            values["start_time_sec"] = file.start
        yield LogRow(step=step, values=values, where=f"{file.path}: step {step}")


def _check_any(files: Sequence[_EventFile], *, log_format: LogFormat) -> None:
    if any(file.steps for file in files):
        return
    shown = f"{files[0].path}" if len(files) == 1 else f"{files[0].path} and {len(files) - 1} more"
    if all(file.start is None for file in files):
        raise RecordError(f"{shown}: no event is in there; the program ended before its writer was flushed or closed")
    tags = sorted({tag for file in files for tag in file.tags})
    wanted = sorted({tag for tag in log_format.fields.values() if tag != WALL_TIME})
    if not tags:
        raise RecordError(f"{shown}: no scalars are in there; expected {_list(wanted)}")
    raise RecordError(
        f"{shown}: its scalars are {_list(tags)}, and the format names {_list(wanted)}; name those that are there in a "
        "LogFormat, or the log_format that the program writes"
    )


def _list(tags: Sequence[str]) -> str:
    """Return the first tags as text."""
    more = " ..." if len(tags) > _MAX_SHOWN_TAGS else ""
    return (", ".join(tags[:_MAX_SHOWN_TAGS]) or "any") + more


def _check_one_run(files: Sequence[_EventFile]) -> None:
    """Refuse steps that are in two files: a restarted run goes on, and another one begins again."""
    for at, later in enumerate(files):
        first = min(later.steps)
        for earlier in files[:at]:
            last = max(earlier.steps)
            if first <= last:
                raise RecordError(
                    f"step {first} in {later.path} comes after step {last} in {earlier.path}: two runs or two ranks "
                    "wrote into one folder, or a run was continued from an earlier checkpoint; name one of the files"
                )


def _read_file(path: Path, log_format: LogFormat, *, parse: Callable[[bytes], Any]) -> _EventFile:
    file = _EventFile(path, log_format)
    try:
        with path.open("rb") as stream:
            for where, record in _records(stream, path=path, file=file):
                file.add(_parsed(record, parse=parse, where=where), where=where)
    except OSError as error:
        raise RecordError(f"{path} can't be read: {error.strerror}; give a log that exists and may be read") from None
    file.check_steps()
    return file


def _records(stream: BinaryIO, *, path: Path, file: _EventFile) -> Iterator[tuple[str, bytes]]:
    """Yield the records of a file and their places: eight bytes of length, a checksum of these, data, its checksum."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    while True:
        at = stream.tell()
        where = f"{path}, byte {at}"
        try:
            head = _read(stream, _LENGTH.size + _CHECKSUM.size)
            if not head:
                return
            _check(head[: _LENGTH.size], checksum=head[_LENGTH.size :], where=where)
            (length,) = _LENGTH.unpack(head[: _LENGTH.size])
            if stream.tell() + length + _CHECKSUM.size > size:
                raise _TornRecordError
            if length > _MAX_BYTES:
                stream.seek(length + _CHECKSUM.size, io.SEEK_CUR)
                continue
            record = _read(stream, length)
            _check(record, checksum=_read(stream, _CHECKSUM.size), where=where)
        except _TornRecordError:
            file.torn_bytes = size - at
            return
        yield where, record


def _read(stream: BinaryIO, length: int) -> bytes:
    """Return so many bytes, or none at the end of the file."""
    data = stream.read(length)
    if data and len(data) < length:
        raise _TornRecordError
    return data


def _check(data: bytes, *, checksum: bytes, where: str) -> None:
    if masked_crc32c(data) != _CHECKSUM.unpack(checksum)[0]:
        raise RecordError(
            f"{where}: a record's checksum is not that of its bytes, so the file is damaged, or no event file; copy it "
            "again, or name other files"
        )


def _parsed(record: bytes, *, parse: Callable[[bytes], Any], where: str) -> Any:
    try:
        return parse(record)
    except Exception as error:  # protobuf's DecodeError, which has no import of its own that is stable
        raise RecordError(f"{where}: a record that is no event ({type(error).__name__}); name other files") from None


def _is_scalar(value: Any) -> bool:
    """Whether a summary's value is a number, of the older form or as a tensor."""
    if value.WhichOneof("value") == "simple_value":
        return True
    if value.WhichOneof("value") != "tensor":
        return False
    # Only the first value of a tag names its kind, and values without a shape are numbers or texts.
    plugin = value.metadata.plugin_data.plugin_name
    return plugin == "scalars" or (not plugin and not value.tensor.tensor_shape.dim and not value.tensor.string_val)


def _number(value: Any, *, where: str) -> float:
    if value.WhichOneof("value") == "simple_value":
        return float(value.simple_value)
    from tensorboard.util import tensor_util  # noqa: PLC0415 (imports numpy)

    try:
        return float(tensor_util.make_ndarray(value.tensor).item())
    except (TypeError, ValueError):
        raise RecordError(f"{where}: {value.tag} is no number but a tensor; name the tag of a scalar") from None


def _event_parser() -> Callable[[bytes], Any]:
    try:
        from tensorboard.compat.proto import event_pb2  # noqa: PLC0415 (an extra)
    except ImportError:
        raise RecordError(
            "event files are read by the package tensorboard, which is not installed; "
            "run: pip install 'pytest-nemoperf[logs]'"
        ) from None
    parse: Callable[[bytes], Any] = event_pb2.Event.FromString
    return parse


@functools.cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ 0x82F63B78 if value & 1 else value >> 1
        table.append(value)
    return tuple(table)


def masked_crc32c(data: bytes) -> int:
    """Return the checksum of event files: CRC-32C, rotated and shifted so that checksums may be among the data."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
