"""Metrics as data: name, unit, direction, and how tables head them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_WHOLE_FROM = 100
_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


class Direction(StrEnum):
    """Which way is better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One measured quantity.

    Attributes:
        name: Key in records, baselines and options; its suffix is the unit.
        unit: For people.
        direction: Which way is better.
        label: What it is called beside its value; the unit where that says it all.
        heading: Column head on performance pages.
    """

    name: str
    unit: str
    direction: Direction
    label: str
    heading: str

    def format(self, value: float) -> str:
        """Return the value with its unit, unless the label is the unit: ``2,412``, ``0.31 GiB``, ``1.23 ms``."""
        if self.unit == "s":
            return format_time(value)
        return format_number(value) if self.label == self.unit else f"{format_number(value)} {self.unit}"

    def delta_pct(self, now: float, *, baseline: float) -> float:
        """Return the signed change in percent of the baseline; its sign says nothing about better or worse."""
        return 100.0 * (now - baseline) / baseline

    def worsening_pct(self, now: float, *, baseline: float) -> float:
        """Return by how many percent now is worse than the baseline; negative when it is better."""
        delta = self.delta_pct(now, baseline=baseline)
        return -delta if self.direction is Direction.HIGHER else delta


def format_number(value: float) -> str:
    """Return a number as tables print it: whole with thousands separators from 100 on, else three digits."""
    return f"{value:,.0f}" if abs(value) >= _WHOLE_FROM else f"{value:.3g}"


def format_time(seconds: float) -> str:
    """Return a short time in the largest unit that leaves a whole digit: ``1.23 s``, ``12.3 ms``, ``345 us``."""
    for size, unit in _TIME_UNITS:
        if seconds >= size:
            return f"{format_number(seconds / size)} {unit}"
    return f"{format_number(seconds * 1e9)} ns"


TOKENS_PER_SEC_PER_GPU = Metric(
    name="tokens_per_sec_per_gpu",
    unit="tokens/sec/GPU",
    direction=Direction.HIGHER,
    label="tokens/sec/GPU",
    heading="Tokens / sec / GPU",
)
TFLOPS_PER_SEC_PER_GPU = Metric(
    name="tflops_per_sec_per_gpu",
    unit="TFLOP/s/GPU",
    direction=Direction.HIGHER,
    label="TFLOP/s/GPU",
    heading="Model TFLOP / sec / GPU",
)
STEP_TIME_SEC = Metric(
    name="step_time_sec", unit="s", direction=Direction.LOWER, label="step time", heading="Step time (s)"
)
PEAK_MEMORY_GIB = Metric(
    name="peak_memory_gib", unit="GiB", direction=Direction.LOWER, label="peak memory", heading="Peak memory (GiB)"
)
MFU_PCT = Metric(name="mfu_pct", unit="%", direction=Direction.HIGHER, label="MFU", heading="MFU (%)")
TIME_PER_CALL_SEC = Metric(
    name="time_per_call_sec", unit="s", direction=Direction.LOWER, label="time per call", heading="Time / call (s)"
)

METRICS = {
    metric.name: metric
    for metric in (
        TOKENS_PER_SEC_PER_GPU,
        TFLOPS_PER_SEC_PER_GPU,
        STEP_TIME_SEC,
        PEAK_MEMORY_GIB,
        MFU_PCT,
        TIME_PER_CALL_SEC,
    )
}
"""Every known metric by name."""

JUDGED = (TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU, PEAK_MEMORY_GIB, TIME_PER_CALL_SEC)
"""Metrics a verdict rests on, in the order they are shown; the others follow from them."""
