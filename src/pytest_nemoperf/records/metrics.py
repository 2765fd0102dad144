"""Metrics as data: name, unit, direction, label and column head."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

BYTES_PER_GIB = 2**30
FLOPS_PER_TFLOP = 1e12
_WHOLE_FROM = 100
_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_MAX_SEC = 1e6  # eleven days of one call, or of one phase of a step
_MAX_JOULES = 1e6  # of one token; 0.28 kWh


class Direction(StrEnum):
    """Better direction of a metric; NEITHER for figures that describe the workload."""

    HIGHER = "higher"
    LOWER = "lower"
    NEITHER = "neither"


class Judged(StrEnum):
    """Source of the tolerance of a metric for which none is named."""

    BY_DEFAULT = "by default"
    """The system's tolerance, or the one for all metrics."""
    AS_TOKENS_PER_SEC = "as tokens_per_sec_per_gpu"
    """The case's tolerance of tokens/sec/GPU."""
    WHEN_NAMED = "when named"
    """None: the metric is not judged."""
    NEVER = "never"
    """None, and none can be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBand:
    """Range of a figure around the baseline's in which tokens per second compare.

    With pinned lengths the tokens of a step are exact, and batch fill and staleness depend on the speed of the code,
    which the verdict judges. Only the number of rounds of dynamic sampling still depends on the policy's answers.

    Attributes:
        allowed: Distance either way: percent of the baseline's if is_relative, else in the metric's unit.
        is_relative: Unit of allowed.
        is_always_kept: Also checked if the lengths of responses are pinned.
    """

    allowed: float
    is_relative: bool = False
    is_always_kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One measured quantity.

    Attributes:
        name: Key in records, baselines and options; its suffix is the unit.
        unit: Unit as printed; empty for a ratio.
        direction: Better direction.
        label: Name beside a value; the unit if that is clear enough.
        heading: Column head on performance pages; empty if they don't show it.
        column: Column head in the terminal; empty for the label.
        digits: Significant digits of a printed number below 100.
        band: Range in which two measurements compare, of a figure that describes the workload; None for any other.
        judged: Source of its tolerance where none is named.
        phases: Phases of a step that take longer when it gets worse; empty for a figure of the whole step.
        limit: Largest value that a machine can have.
    """

    name: str
    unit: str
    direction: Direction
    label: str
    heading: str = ""
    column: str = ""
    digits: int = 3
    band: RolloutBand | None = None
    judged: Judged = Judged.NEVER
    phases: tuple[str, ...] = ()
    limit: float = math.inf

    def format(self, value: float) -> str:
        """Return the value with its unit, unless the label is the unit: ``2,412``, ``0.31 GiB``, ``1.23 ms``."""
        if self.unit == "s":
            return format_time(value)
        number = format_number(value, digits=self.digits)
        if self.unit in ("", self.label):
            return number
        return f"{number} {self.unit}"

    def delta_pct(self, now: float, *, baseline: float) -> float:
        """Return the signed change in percent of the baseline, positive for a larger value in either direction."""
        return 100.0 * (now - baseline) / baseline

    def change_word(self, delta_pct: float) -> str:
        """Return the word for a change: a time or a rate is ``faster`` or ``slower``, else ``larger`` or ``smaller``.

        Its sign says nothing of that: + is a gain of a rate and a loss of a time. Empty for what rounds to 0.0%.
        """
        is_more = delta_pct > 0
        if round(abs(delta_pct), 1) == 0:
            return ""
        if self.unit == "s":
            return "slower" if is_more else "faster"
        if "/s" in self.unit:
            return "faster" if is_more else "slower"
        return "larger" if is_more else "smaller"

    def worsening_pct(self, now: float, *, baseline: float) -> float:
        """Return the worsening in percent of the baseline, negative for an improvement; 0 without a direction."""
        if self.direction is Direction.NEITHER:
            return 0.0
        delta = self.delta_pct(now, baseline=baseline)
        return -delta if self.direction is Direction.HIGHER else delta


def format_number(value: float, *, digits: int = 3) -> str:
    """Return a number as tables print it: whole with thousands separators from 100 on, else with digits digits."""
    if abs(value) >= _WHOLE_FROM:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def format_time(seconds: float) -> str:
    """Return a short time in the largest unit that leaves a whole digit: ``1.23 s``, ``12.3 ms``, ``345 us``."""
    size, unit = time_unit(seconds)
    return f"{format_number(seconds / size)} {unit}"


def time_unit(seconds: float) -> tuple[float, str]:
    """Return the largest unit that leaves a whole digit of a short time: its seconds and its name."""
    for size, unit in _TIME_UNITS:
        if seconds >= size:
            return size, unit
    return 1e-9, "ns"


TOKENS_PER_SEC_PER_GPU = Metric(
    name="tokens_per_sec_per_gpu",
    unit="tokens/sec/GPU",
    direction=Direction.HIGHER,
    label="tokens/sec/GPU",
    heading="Tokens / sec / GPU",
    judged=Judged.BY_DEFAULT,
    limit=1e12,
)
TFLOPS_PER_SEC_PER_GPU = Metric(
    name="tflops_per_sec_per_gpu",
    unit="TFLOP/s/GPU",
    direction=Direction.HIGHER,
    label="TFLOP/s/GPU",
    heading="Model TFLOP / sec / GPU",
    judged=Judged.BY_DEFAULT,
    limit=1e6,
)
STEP_TIME_SEC = Metric(
    name="step_time_sec",
    unit="s",
    direction=Direction.LOWER,
    label="step time",
    heading="Step time (s)",
    column="step",
)
PEAK_MEMORY_GIB = Metric(
    name="peak_memory_gib",
    unit="GiB",
    direction=Direction.LOWER,
    label="peak memory",
    heading="Peak memory (GiB)",
    column="peak GiB",
    judged=Judged.BY_DEFAULT,
    limit=1e6,
)
MFU_PCT = Metric(name="mfu_pct", unit="%", direction=Direction.HIGHER, label="MFU", heading="MFU (%)")
TIME_PER_CALL_SEC = Metric(
    name="time_per_call_sec",
    unit="s",
    direction=Direction.LOWER,
    label="time per call",
    heading="Time / call (s)",
    judged=Judged.BY_DEFAULT,
    limit=_MAX_SEC,
)
CALL_TFLOPS_PER_SEC = Metric(
    name="call_tflops_per_sec", unit="TFLOP/s", direction=Direction.HIGHER, label="TFLOP/s", heading="TFLOP / sec"
)
CALL_GIB_PER_SEC = Metric(
    name="call_gib_per_sec", unit="GiB/s", direction=Direction.HIGHER, label="GiB/s", heading="GiB / sec"
)
ALGORITHM_GIB_PER_SEC = Metric(
    name="algorithm_gib_per_sec",
    unit="GiB/s",
    direction=Direction.HIGHER,
    label="algorithm bandwidth",
    heading="Algorithm bandwidth (GiB / sec)",
)
BUS_GIB_PER_SEC = Metric(
    name="bus_gib_per_sec",
    unit="GiB/s",
    direction=Direction.HIGHER,
    label="bus bandwidth",
    heading="Bus bandwidth (GiB / sec)",
)
CALL_RATES = (CALL_TFLOPS_PER_SEC, CALL_GIB_PER_SEC, ALGORITHM_GIB_PER_SEC, BUS_GIB_PER_SEC)
"""Rates of timed calls: their work over the time of a call, which is what is judged."""

MEAN_TOKENS_PER_STEP = Metric(
    name="mean_tokens_per_step",
    unit="tokens",
    direction=Direction.NEITHER,
    label="mean number of tokens per step",
    digits=4,
    band=RolloutBand(allowed=5.0, is_relative=True),
)
TOKENS_SPREAD_PCT = Metric(
    name="tokens_spread_pct",
    unit="%",
    direction=Direction.NEITHER,
    label="spread of the tokens per step",
    band=RolloutBand(allowed=5.0),
)

GENERATION_TOKENS_PER_SEC_PER_GPU = Metric(
    name="generation_tokens_per_sec_per_gpu",
    unit="tokens/sec/GPU",
    direction=Direction.HIGHER,
    label="generation",
    judged=Judged.AS_TOKENS_PER_SEC,
    phases=("generation", "exposed_generation"),
)
LOGPROB_TOKENS_PER_SEC_PER_GPU = Metric(
    name="logprob_tokens_per_sec_per_gpu",
    unit="tokens/sec/GPU",
    direction=Direction.HIGHER,
    label="log-probabilities",
    judged=Judged.WHEN_NAMED,
    phases=("policy_logprobs", "reference_logprobs"),
)
TRAINING_TOKENS_PER_SEC_PER_GPU = Metric(
    name="training_tokens_per_sec_per_gpu",
    unit="tokens/sec/GPU",
    direction=Direction.HIGHER,
    label="training",
    judged=Judged.AS_TOKENS_PER_SEC,
    phases=("training",),
)
TRAINING_TFLOPS_PER_SEC_PER_GPU = Metric(
    name="training_tflops_per_sec_per_gpu",
    unit="TFLOP/s/GPU",
    direction=Direction.HIGHER,
    label="training speed",
)
TRAINING_MFU_PCT = Metric(name="training_mfu_pct", unit="%", direction=Direction.HIGHER, label="training MFU")
REFIT_GIB = Metric(name="refit_gib", unit="GiB", direction=Direction.NEITHER, label="refit size")
REFIT_TIME_SEC = Metric(
    name="refit_time_sec",
    unit="s",
    direction=Direction.LOWER,
    label="refit time",
    judged=Judged.WHEN_NAMED,
    phases=("refit", "exposed_generation"),
    limit=_MAX_SEC,
)
EXPOSED_GENERATION_SEC = Metric(
    name="exposed_generation_sec",
    unit="s",
    direction=Direction.LOWER,
    label="exposed generation",
    judged=Judged.WHEN_NAMED,
    phases=("exposed_generation",),
    limit=_MAX_SEC,
)
REFIT_GIB_PER_SEC = Metric(name="refit_gib_per_sec", unit="GiB/s", direction=Direction.HIGHER, label="refit speed")
MEAN_PROMPT_LEN = Metric(
    name="mean_prompt_len",
    unit="tokens",
    direction=Direction.NEITHER,
    label="mean prompt length",
    digits=4,
    band=RolloutBand(allowed=5.0, is_relative=True),
)
MEAN_RESPONSE_LEN = Metric(
    name="mean_response_len",
    unit="tokens",
    direction=Direction.NEITHER,
    label="mean response length",
    heading="G-Average Seq len",
    digits=4,
    band=RolloutBand(allowed=5.0, is_relative=True),
)
TRUNCATED_PCT = Metric(
    name="truncated_pct",
    unit="%",
    direction=Direction.NEITHER,
    label="truncated share",
    band=RolloutBand(allowed=5.0),
)
STALENESS_STEPS = Metric(
    name="staleness_steps",
    unit="steps",
    direction=Direction.NEITHER,
    label="staleness",
    band=RolloutBand(allowed=0.5),
)
BATCH_FILL_PCT = Metric(
    name="batch_fill_pct",
    unit="%",
    direction=Direction.HIGHER,
    label="generation batch fill",
    band=RolloutBand(allowed=5.0),
)
GENERATION_IMBALANCE_PCT = Metric(
    name="generation_imbalance_pct", unit="%", direction=Direction.LOWER, label="generation imbalance"
)
NUM_ROUNDS = Metric(
    name="num_rounds",
    unit="",
    direction=Direction.NEITHER,
    label="number of generation rounds",
    band=RolloutBand(allowed=0.5, is_always_kept=True),
)
REWARD_MEAN = Metric(name="reward_mean", unit="", direction=Direction.NEITHER, label="mean reward")
TOKEN_MULT_PROB_ERROR = Metric(
    name="token_mult_prob_error",
    unit="",
    direction=Direction.LOWER,
    label="token probability error",
    digits=5,
)
MAX_LOGPROB_ERROR = Metric(
    name="max_logprob_error", unit="", direction=Direction.LOWER, label="largest log-probability error"
)
KL = Metric(name="kl", unit="", direction=Direction.NEITHER, label="KL from the reference")

JOULES_PER_TOKEN = Metric(
    name="joules_per_token",
    unit="J/token",
    direction=Direction.LOWER,
    label="energy",
    judged=Judged.WHEN_NAMED,
    limit=_MAX_JOULES,
)
TOKENS_PER_JOULE = Metric(
    name="tokens_per_joule",
    unit="tokens/J",
    direction=Direction.HIGHER,
    label="tokens/J",
    judged=Judged.WHEN_NAMED,
    limit=1e12,
)
TIME_TO_FIRST_STEP_SEC = Metric(
    name="time_to_first_step_sec",
    unit="s",
    direction=Direction.LOWER,
    label="time to first step",
    judged=Judged.WHEN_NAMED,
    limit=_MAX_SEC,
)
COMPILE_TIME_SEC = Metric(
    name="compile_time_sec",
    unit="s",
    direction=Direction.LOWER,
    label="compile time",
    judged=Judged.WHEN_NAMED,
    limit=_MAX_SEC,
)
CHECKPOINT_SAVE_SEC = Metric(
    name="checkpoint_save_sec",
    unit="s",
    direction=Direction.LOWER,
    label="checkpoint save",
    judged=Judged.WHEN_NAMED,
    limit=_MAX_SEC,
)
CHECKPOINT_ASYNC_SAVE_SEC = Metric(
    name="checkpoint_async_save_sec",
    unit="s",
    direction=Direction.LOWER,
    label="wait for an async checkpoint save",
    judged=Judged.WHEN_NAMED,
    limit=_MAX_SEC,
)
CHECKPOINT_LOAD_SEC = Metric(
    name="checkpoint_load_sec",
    unit="s",
    direction=Direction.LOWER,
    label="checkpoint load",
    judged=Judged.WHEN_NAMED,
    limit=_MAX_SEC,
)
CHECKPOINT_GIB = Metric(name="checkpoint_gib", unit="GiB", direction=Direction.NEITHER, label="checkpoint size")
CHECKPOINT_ASYNC_TOTAL_SEC = Metric(
    name="checkpoint_async_total_sec", unit="s", direction=Direction.LOWER, label="whole async checkpoint save"
)
CHECKPOINT_SAVE_GIB_PER_SEC = Metric(
    name="checkpoint_save_gib_per_sec", unit="GiB/s", direction=Direction.HIGHER, label="checkpoint save speed"
)
CHECKPOINT_LOAD_GIB_PER_SEC = Metric(
    name="checkpoint_load_gib_per_sec", unit="GiB/s", direction=Direction.HIGHER, label="checkpoint load speed"
)

ENERGY_METRICS = (JOULES_PER_TOKEN, TOKENS_PER_JOULE)
"""Metrics of a run's energy, from counters outside its ranks."""

CHECKPOINT_METRICS = (CHECKPOINT_SAVE_SEC, CHECKPOINT_ASYNC_SAVE_SEC, CHECKPOINT_LOAD_SEC)
"""Metrics that a case must ask for, and for which its ranks save and load a checkpoint."""

EXTRA_METRICS = (TIME_TO_FIRST_STEP_SEC, COMPILE_TIME_SEC, *CHECKPOINT_METRICS)
"""Metrics that a recipe may ask for in ``extra_metrics``, in printed order."""

BESIDE_STEPS = (
    *ENERGY_METRICS,
    *EXTRA_METRICS,
    CHECKPOINT_ASYNC_TOTAL_SEC,
    CHECKPOINT_GIB,
    CHECKPOINT_SAVE_GIB_PER_SEC,
    CHECKPOINT_LOAD_GIB_PER_SEC,
)
"""Metrics of a launch that its step records don't hold, in printed order; rounds of two revisions have none of them."""

RL_METRICS = (
    GENERATION_TOKENS_PER_SEC_PER_GPU,
    LOGPROB_TOKENS_PER_SEC_PER_GPU,
    TRAINING_TOKENS_PER_SEC_PER_GPU,
    TRAINING_TFLOPS_PER_SEC_PER_GPU,
    TRAINING_MFU_PCT,
    EXPOSED_GENERATION_SEC,
    REFIT_TIME_SEC,
    REFIT_GIB,
    REFIT_GIB_PER_SEC,
    MEAN_PROMPT_LEN,
    MEAN_RESPONSE_LEN,
    TRUNCATED_PCT,
    STALENESS_STEPS,
    BATCH_FILL_PCT,
    GENERATION_IMBALANCE_PCT,
    NUM_ROUNDS,
    REWARD_MEAN,
    TOKEN_MULT_PROB_ERROR,
    MAX_LOGPROB_ERROR,
    KL,
)
"""Metrics of reinforcement learning alone, in printed order."""

METRICS = {
    metric.name: metric
    for metric in (
        TOKENS_PER_SEC_PER_GPU,
        TFLOPS_PER_SEC_PER_GPU,
        STEP_TIME_SEC,
        MFU_PCT,
        *RL_METRICS,
        PEAK_MEMORY_GIB,
        TIME_PER_CALL_SEC,
        *CALL_RATES,
        MEAN_TOKENS_PER_STEP,
        TOKENS_SPREAD_PCT,
        *BESIDE_STEPS,
    )
}
"""Every known metric by name."""

JUDGED = tuple(metric for metric in METRICS.values() if metric.judged is not Judged.NEVER)
"""Metrics that may have a tolerance, in printed order; the others follow from them, or describe the workload."""

WHOLE_STEP = tuple(metric for metric in JUDGED if not metric.phases and metric not in BESIDE_STEPS)
"""Judged metrics of whole steps and calls; the other judged ones are of phases, or of a launch beside its steps."""

PRETRAIN_PAGE = (TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU)
"""Columns of the performance page of pre-training; that of reinforcement learning has exactly NeMo RL's."""

IN_PROCESS_PAGE = (TIME_PER_CALL_SEC, *CALL_RATES, STEP_TIME_SEC, *PRETRAIN_PAGE)
"""Columns of the page of calls and loops that the test process has timed, of those that any case has."""

PRETRAIN_SUMMARY = (TOKENS_PER_SEC_PER_GPU, TFLOPS_PER_SEC_PER_GPU, MFU_PCT, STEP_TIME_SEC, PEAK_MEMORY_GIB)
"""Columns of the terminal's table of pre-training and loops; judged figures have their change beside them."""

RL_SUMMARY = (TOKENS_PER_SEC_PER_GPU, STEP_TIME_SEC, PEAK_MEMORY_GIB)
"""Columns of the terminal's table of reinforcement learning."""

CALL_SUMMARY = (TIME_PER_CALL_SEC, *CALL_RATES)
"""Columns of the terminal's table of timed calls."""
