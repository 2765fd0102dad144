from __future__ import annotations

import builtins
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c as crc_of_tensorboard
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.event_files import event_files, masked_crc32c, read_event_files, read_event_rows
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from tests.logs.event_writer import START, write_events

FORMAT = LogFormat(kind=LogKind.TENSORBOARD, fields={"loss": "train/loss", "step_time_sec": "time"})
CLOCK_FORMAT = LogFormat(kind=LogKind.TENSORBOARD, fields={"loss": "train/loss", "end_time_sec": "wall_time"})

SHAPE_OF_TWO = TensorShapeProto(dim=[TensorShapeProto.Dim(size=2)])


def steps_of(*numbers: int, seconds: float = 0.5) -> list[tuple[int, float, dict[str, float]]]:
    return [(step, step * seconds, {"train/loss": 8.0 - step, "time": seconds}) for step in numbers]


def values_of(folder: Path, log_format: LogFormat = FORMAT) -> list[tuple[int | None, Mapping[str, float]]]:
    return [(row.step, row.values) for row in read_event_rows([folder], log_format)]


@pytest.mark.parametrize("is_tensor", [pytest.param(False, id="simple value"), pytest.param(True, id="tensor")])
def test_scalars_of_both_forms_are_read_by_step(tmp_path: Path, *, is_tensor: bool) -> None:
    write_events(tmp_path, steps_of(1, 2, 3), is_tensor=is_tensor)

    values = values_of(tmp_path)

    assert values == [(step, {"loss": 8.0 - step, "step_time_sec": 0.5}) for step in (1, 2, 3)]


def test_one_tag_may_be_two_quantities(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(1))
    both = LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "time", "phase.other_sec": "time"})

    assert values_of(tmp_path, both) == [(1, {"step_time_sec": 0.5, "phase.other_sec": 0.5})]


def test_the_clock_is_that_of_the_steps_first_scalar(tmp_path: Path) -> None:
    """Trainers sum up at their end what they logged at their last step."""
    write_events(tmp_path, [*steps_of(1, 2), (2, 9.0, {"train/loss": 5.0})])

    values = values_of(tmp_path, CLOCK_FORMAT)

    assert [value["end_time_sec"] for _, value in values] == [START + 0.5, START + 1.0]
    assert values[1][1]["loss"] == 5.0


def test_the_first_step_of_a_file_begins_when_its_writer_was_made(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(1, 2))

    starts = [value.get("start_time_sec") for _, value in values_of(tmp_path, CLOCK_FORMAT)]

    assert starts == [START, None]


def test_scalars_that_the_format_does_not_name_have_no_part_in_the_clock(tmp_path: Path) -> None:
    write_events(tmp_path, [(1, 0.1, {"early": 1.0}), (1, 0.5, {"train/loss": 7.0})])
    anything = LogFormat(kind=LogKind.TENSORBOARD, fields={"end_time_sec": "wall_time"})

    assert values_of(tmp_path, CLOCK_FORMAT)[0][1]["end_time_sec"] == START + 0.5
    assert values_of(tmp_path, anything)[0][1]["end_time_sec"] == START + 0.1


def test_files_of_a_restarted_run_are_one_log_in_order_of_time(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(4, 5), start=START + 100, suffix=".a")
    write_events(tmp_path, steps_of(1, 2, 3), start=START, suffix=".b")

    rows = read_event_rows([tmp_path], CLOCK_FORMAT)

    assert [row.step for row in rows] == [1, 2, 3, 4, 5]
    assert [row.values.get("start_time_sec") for row in rows] == [START, None, None, START + 100, None]


def test_files_without_scalars_of_the_format_are_passed_over(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(1, 2))
    write_events(tmp_path / "hparams", [(0, 0.0, {"hp_metric": -1.0})], start=START + 1)
    (tmp_path / "events.out.tfevents.1.empty").touch()

    assert [step for step, _ in values_of(tmp_path)] == [1, 2]


def test_a_record_of_another_kind_is_passed_over(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    picture = Summary.Image(height=1, width=1, encoded_image_string=b"x" * (1 << 19))
    text = TensorProto(dtype=7, string_val=[b"12"], tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]))
    numbers = TensorProto(dtype=1, float_val=[1.0, 2.0], tensor_shape=SHAPE_OF_TWO)
    loss = Summary.Value(tag="train/loss", simple_value=2.0)
    for value in (
        Summary.Value(tag="picture", image=picture),
        Summary.Value(tag="train/loss", tensor=text),
        Summary.Value(tag="time", tensor=numbers),
        loss,
    ):
        writer.add_event(Event(wall_time=START, step=1, summary=Summary(value=[value])))
    writer.close()

    assert values_of(tmp_path) == [(1, {"loss": 2.0})]


def test_a_scalar_that_is_several_numbers_is_told(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    numbers = TensorProto(dtype=1, float_val=[1.0, 2.0], tensor_shape=SHAPE_OF_TWO)
    metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))
    value = Summary.Value(tag="train/loss", tensor=numbers, metadata=metadata)
    writer.add_event(Event(wall_time=START, step=1, summary=Summary(value=[value])))
    writer.close()

    with pytest.raises(RecordError, match="train/loss is no number but a tensor; name the tag of a scalar"):
        read_event_rows([tmp_path], FORMAT)


def test_values_of_no_form_are_passed_over(tmp_path: Path) -> None:
    writer = EventFileWriter(str(tmp_path))
    values = [Summary.Value(tag="train/loss"), Summary.Value(tag="train/loss", simple_value=2.0)]
    writer.add_event(Event(wall_time=START, step=1, summary=Summary(value=values)))
    writer.close()

    assert values_of(tmp_path) == [(1, {"loss": 2.0})]


def test_paths_may_be_folders_and_files_and_each_file_counts_once(tmp_path: Path) -> None:
    file = write_events(tmp_path / "deep" / "er", steps_of(1))

    assert event_files([tmp_path, file, tmp_path / "deep"]) == [file]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(range(1, 5), range(1, 5), id="two runs"),
        pytest.param(range(1, 5), range(4, 8), id="continued from a checkpoint before the end"),
        pytest.param(range(3, 5), range(2, 3), id="backwards"),
    ],
)
def test_steps_in_two_files_name_both(tmp_path: Path, first: range, second: range) -> None:
    earlier = write_events(tmp_path, steps_of(*first), suffix=".z")
    later = write_events(tmp_path, steps_of(*second), start=START + 50, suffix=".a")

    with pytest.raises(RecordError, match="two runs or two ranks wrote into one folder") as raised:
        read_event_rows([tmp_path], FORMAT)

    assert str(earlier) in str(raised.value)
    assert str(later) in str(raised.value)


def test_steps_that_begin_again_in_one_file_are_two_runs(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(1, 2, 3, 1))

    with pytest.raises(RecordError, match="train/loss of step 1 after that of step 3: two runs wrote into one file"):
        read_event_rows([tmp_path], FORMAT)


def test_scalars_of_one_step_may_come_late(tmp_path: Path) -> None:
    write_events(tmp_path, [(1, 1, {"train/loss": 1}), (2, 2, {"train/loss": 2}), (1, 2, {"time": 3})])

    assert values_of(tmp_path) == [(1, {"loss": 1, "step_time_sec": 3}), (2, {"loss": 2})]


def test_scalars_written_without_a_step_are_told(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(0, 0, 0))

    with pytest.raises(RecordError, match="all 3 values of train/loss are of step 0; let the program"):
        read_event_rows([tmp_path], FORMAT)


def test_a_negative_step_is_told(tmp_path: Path) -> None:
    write_events(tmp_path, steps_of(-1))

    with pytest.raises(RecordError, match="train/loss of step -1; steps count from 0"):
        read_event_rows([tmp_path], FORMAT)


def test_a_folder_without_event_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "log.txt").touch()

    with pytest.raises(RecordError, match=r"no event files \(\*tfevents\*\); let the program write them"):
        read_event_rows([tmp_path], FORMAT)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="can't be read: No such file"):
        read_event_rows([tmp_path / "events.out.tfevents.1"], FORMAT)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1").touch()

    with pytest.raises(RecordError, match="no event is in there; the program ended before its writer was flushed"):
        read_event_rows([tmp_path], FORMAT)


def test_a_file_without_scalars_is_told(tmp_path: Path) -> None:
    write_events(tmp_path, [])

    with pytest.raises(RecordError, match="no scalars are in there; expected time, train/loss"):
        read_event_rows([tmp_path], FORMAT)


def test_a_misspelt_tag_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    write_events(tmp_path, [(1, 0.5, {"train/los": 1.0, "train/lr": 0.1})])

    with pytest.raises(RecordError, match="scalars are train/los, train/lr, and the format names time, train/loss;"):
        read_event_rows([tmp_path], FORMAT)


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    path.write_text("step,loss\n1,2.0\n" * 3)

    with pytest.raises(RecordError, match="byte 0: a record's checksum is not that of its bytes"):
        read_event_rows([tmp_path], FORMAT)


def test_records_of_something_else_are_told(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1").write_bytes(framed(b"\xff\xff"))

    with pytest.raises(RecordError, match=r"byte 0: a record that is no event \(DecodeError\)"):
        read_event_rows([tmp_path], FORMAT)


def test_a_missing_package_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_events(tmp_path, steps_of(1))
    for name in [name for name in sys.modules if name.startswith("tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    real_import = builtins.__import__

    def without_tensorboard(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tensorboard)

    with pytest.raises(RecordError, match=r"run: pip install 'pytest-nemoperf\[logs\]'"):
        read_event_rows([tmp_path], FORMAT)


@given(data=st.binary(max_size=300))
def test_checksums_are_those_of_tensorboard(data: bytes) -> None:
    assert masked_crc32c(data) == crc_of_tensorboard(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_events(tmp_path_factory.mktemp("whole"), steps_of(1, 2, 3))


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_gives_its_first_scalars_or_is_told(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    data = whole.read_bytes()
    path = tmp_path_factory.mktemp("cut") / whole.name
    path.write_bytes(data[: int(share * len(data))])
    all_rows = {row.step: row.values for row in read_event_rows([whole], FORMAT)}

    complaint = ""
    try:
        found = read_event_files([path], FORMAT)
    except RecordError as error:
        complaint = str(error)
    shutil.rmtree(path.parent)

    if complaint:
        assert "no event is in there" in complaint or "no scalars are in there" in complaint
        return
    numbers = [row.step for row in found.rows]
    assert numbers == list(all_rows)[: len(numbers)]
    for row in found.rows[:-1]:
        assert row.values == all_rows[row.step]
    assert found.rows[-1].values.items() <= all_rows[numbers[-1]].items()
    for note in found.notes:
        assert "the last record is not finished" in note


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_wrong_bit_is_always_told(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, share: float, bit: int
) -> None:
    data = bytearray(whole.read_bytes())
    data[int(share * len(data))] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / whole.name
    path.write_bytes(data)

    with pytest.raises(RecordError, match="a record's checksum is not that of its bytes"):
        read_event_rows([path], FORMAT)

    shutil.rmtree(path.parent)


@given(data=st.binary(max_size=200), is_framed=st.booleans())
def test_any_bytes_are_told(tmp_path_factory: pytest.TempPathFactory, *, data: bytes, is_framed: bool) -> None:
    path = tmp_path_factory.mktemp("any") / "events.out.tfevents.1"
    path.write_bytes(framed(data) if is_framed else data)

    with pytest.raises(RecordError):
        read_event_rows([path], FORMAT)

    shutil.rmtree(path.parent)


def framed(data: bytes) -> bytes:
    """Return a record of event files with valid checksums."""
    length = len(data).to_bytes(8, "little")
    return b"".join((length, checksum(length), data, checksum(data)))


def checksum(data: bytes) -> bytes:
    value: int = crc_of_tensorboard(data)
    return value.to_bytes(4, "little")
