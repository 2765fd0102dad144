"""Rows of performance tables: measured, frozen with a release, or published; one shape for pages, show and compare."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from pytest_nemoperf.records.figures import Count, Finite, Positive, Size

_RELEASE_SCHEMA_VERSION: Final = 1


class RowKind(StrEnum):
    """Origin of a row's figures."""

    MEASURED = "measured"
    """Runs of this project."""
    PUBLISHED = "published"
    """Printed on another project's page: one value, without spread."""
    DRAFT = "draft"
    """Printed on a draft of a page, and never released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOrigin:
    """Provenance of a row.

    Attributes:
        kind: Measured, published, or a draft.
        release: Release of the page or of the frozen rows; empty for rows that belong to none yet.
        date: Day or time in UTC, ISO 8601; empty if unknown.
        commit: Commit of the measured code, or the one that shows the published row, with ``+changes`` behind it if
            the working tree had some; empty if unknown.
        device: Count and name of the GPUs, or the processor's name.
        container: Image or kind of container; empty for none or unknown.
        command: Command that measured it.
        versions: Version by distribution, driver and settings that may change speed.
        source: Path of the file that holds the row here, or the repository of a published page.
        url: Address of a published page.
        note: Remark on the row's reading or validity.
    """

    kind: RowKind
    release: str = ""
    date: str = ""
    commit: str = ""
    device: str = ""
    container: str = ""
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    url: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutColumns:
    """Columns of generation in a row of reinforcement learning.

    Attributes:
        max_staleness: Steps that generation may be behind; 0 on-policy.
        backend: Training backend as pages print it.
        dataset: Name of the prompts' data.
        num_samples: Responses of a step (G-GBS).
        tp: G-TP.
        pp: G-PP.
        dp: G-DP; None if unknown.
        precision: Precision of generation.
        is_pinned: Responses have the same lengths in every step.
    """

    max_staleness: Count
    backend: str
    dataset: str
    num_samples: Size
    tp: Size
    pp: Size
    dp: Count | None
    precision: str
    is_pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of a performance table; None for a column that is unknown or does not apply.

    Attributes:
        case: Case id, or the id of a published row.
        system: Name of the system.
        workload: ``pretrain``, ``sft``, ``lora``, the algorithm of reinforcement learning, or ``benchmark`` and
            ``loop`` for calls and loops timed in the test process.
        framework: Name of the framework; empty for calls and loops.
        model: Name of the model as printed.
        precision: Of training, as printed: ``BF16``, ``FP8-CS``.
        gpus: GPUs of the run.
        global_batch_size: GBS, or T-GBS.
        micro_batch_size: MBS.
        seq_len: Sequence Length, or T-Max Sequence Length.
        fsdp: 1 for FSDP, 0 for DDP.
        dp: Data-parallel degree.
        tp: Tensor parallel degree.
        pp: Pipeline parallel degree.
        cp: Context parallel degree.
        vp: Model chunks per pipeline rank; None without a pipeline.
        ep: Expert parallel degree.
        grad_accum_steps: GA.
        rollouts: Columns of generation; None for other workloads.
        values: Values by metric name, one a run in the order of the runs, which is the same for every metric. A
            published row has one.
        judged: Values of the metrics that a session judged: each a mean that one stalled run does not move.
        flops_convention: Name of the convention that FLOPs are counted under; empty if unknown.
        flops_per_token: Model FLOPs per token; None if unknown.
        settings: The workload as plain data, as baselines store it; empty for published rows.
        sessions: Start of the session of each run, ISO 8601; empty if not every run tells it.
        origin: Provenance.
    """

    case: str
    system: str
    workload: str
    framework: str
    model: str
    origin: RowOrigin
    values: Mapping[str, tuple[Finite, ...]]
    precision: str = ""
    gpus: Size | None = None
    global_batch_size: Size | None = None
    micro_batch_size: Size | None = None
    seq_len: Size | None = None
    fsdp: Count | None = None
    dp: Count | None = None
    tp: Count | None = None
    pp: Count | None = None
    cp: Count | None = None
    vp: Count | None = None
    ep: Count | None = None
    grad_accum_steps: Size | None = None
    rollouts: RolloutColumns | None = None
    judged: Mapping[str, Finite] = field(default_factory=dict)
    flops_convention: str = ""
    flops_per_token: Positive | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sessions: tuple[str, ...] = ()

    @property
    def num_runs(self) -> int:
        """Runs that the figures are medians of."""
        return max(map(len, self.values.values()), default=0)

    def value(self, metric: str) -> float | None:
        """Return a metric as it was judged, or else its median over the runs; None if the row lacks it."""
        if metric in self.judged:
            return self.judged[metric]
        values = self.values.get(metric)
        return statistics.median(values) if values else None

    def spread_pct(self, metric: str) -> float | None:
        """Return (max - min) / median of a metric over the runs, percent; None for fewer than two."""
        values = self.values.get(metric, ())
        if len(values) < 2:  # noqa: PLR2004 (a single value has no spread)
            return None
        middle = statistics.median(values)
        return 100 * (max(values) - min(values)) / middle if middle else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """File of a release: rows as they were when it was made.

    Attributes:
        name: Name of the release.
        date: Day it was made, ISO 8601.
        rows: Its rows, each with its own provenance.
        previous: Release before it; empty for the first one.
    """

    name: str
    date: str
    rows: tuple[Row, ...]
    previous: str = ""
    schema_version: Literal[1] = _RELEASE_SCHEMA_VERSION
