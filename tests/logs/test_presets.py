from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_nemoperf.logs.formats
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.logs.log_format import LogKind
from pytest_nemoperf.logs.presets import PRESETS, find_preset, name_of, preset_of
from tests.logs.log_texts import (
    BY_HAND,
    TOKENS,
    automodel_console_line,
    automodel_line,
    bridge_memory,
    megatron_line,
    megatron_memory,
    read,
    titan_line,
)

TIMES = ("step_time_sec", "step_time_ms", "tokens_per_sec", "tokens_per_sec_per_gpu", "end_time_sec")


def test_each_module_of_a_format_is_a_preset() -> None:
    modules = Path(pytest_nemoperf.logs.formats.__file__).parent.glob("*.py")

    assert sorted(module.stem for module in modules if module.stem != "__init__") == list(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_how_its_log_is_written(name: str) -> None:
    assert find_preset(name).how


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_a_time(name: str) -> None:
    names = set(find_preset(name).log_format.names())

    assert names & {*TIMES, "raw.time"}


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(
        RecipeError, match=r"unknown log_format 'megatorn'; did you mean megatron or .*, or give a LogFormat"
    ):
        find_preset("megatorn")


def test_a_format_by_hand_is_of_the_own_output() -> None:
    preset = preset_of(BY_HAND)

    assert (preset.log_format, preset.file, preset.convert) == (BY_HAND, "", None)


def test_formats_have_names_for_messages() -> None:
    assert name_of("megatron") == "log_format='megatron'"
    assert name_of(BY_HAND) == f"the LogFormat of kind {LogKind.TEXT}"


GIB = 2**30
FORMATS = {
    "megatron": ("megatron", lambda step: megatron_line(step) + megatron_memory(step), 5 * GIB),
    "bridge": ("megatron_bridge", lambda step: megatron_line(step) + bridge_memory(step), 5368700000),
    "automodel": ("automodel", automodel_line, 5.5 * GIB),
    "automodel console": ("automodel_console", automodel_console_line, 5.5 * GIB),
    "torchtitan": ("torchtitan", lambda step: titan_line(step, tps=TOKENS / 1.25 / 2), 5.5 * GIB),
}


@pytest.mark.parametrize(("name", "line_of", "peak"), FORMATS.values(), ids=FORMATS.keys())
def test_a_step_is_read_under_our_definitions(
    name: str, line_of: Callable[[int], str], peak: float, tmp_path: Path
) -> None:
    reading = read("".join(map(line_of, range(1, 7))), log_format=name, tmp_path=tmp_path)

    assert (len(reading.records), reading.first_step, reading.steps_per_record, reading.notes) == (6, 1, 1, ())
    record = reading.records[3]
    assert record.step_time_sec == pytest.approx(1.25, rel=1e-3)
    assert record.tokens == TOKENS
    assert record.loss == pytest.approx(8.5)
    assert record.grad_norm == 1.5
    assert record.peak_memory_bytes == peak
    assert record.phases == {}
    assert record.flops is None
