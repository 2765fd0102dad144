"""Rows of published performance pages, as the pages print them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_nemoperf.flops.published import prints_whole_sequences
from pytest_nemoperf.records.figures import Count, Size
from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU

_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRollouts:
    """Columns of generation, of a row of reinforcement learning.

    Attributes:
        max_staleness: Steps that generation may be behind; 0 on-policy.
        backend: Training backend as printed.
        dataset: Name of the data; empty if the page does not print it.
        mean_response_len: Generated tokens a sample (G-Average Seq len).
        num_samples: Responses of a step (G-GBS).
        tp: Tensor parallel degree of generation (G-TP).
        pp: Pipeline parallel degree of generation (G-PP).
        dp: Replicas that generate (G-DP); None if not printed.
        precision: Precision of generation as printed.
    """

    max_staleness: Count
    backend: str
    mean_response_len: Size
    num_samples: Size
    tp: Size
    pp: Size
    precision: str
    dp: Count | None = None
    dataset: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRow:
    """Row of a published performance table; None, or an empty text, for a value that it does not print.

    Attributes:
        id: Name of the row here; stable.
        source: Repository of the page, as ``owner/name``, or a site.
        path: File of the page in that repository, or its address.
        commit: First commit known to show the row; empty if unknown.
        date: Day of that commit; empty if unknown.
        release: As the page names it.
        section: Heading of its table; empty if unknown.
        task: ``pretrain``, ``sft``, ``lora``, or the algorithm of reinforcement learning in lower case.
        framework: Framework that ran it: ``megatron_bridge``, ``nemo_rl``, ``automodel``, ``torchtitan``, ``nemo``
            (NeMo 1 and 2), ``dfm``, ``maxtext``, ``paxml``.
        model: As printed.
        system: Catalog name of the system.
        system_title: As printed.
        precision: Of training, as printed.
        gpus: GPUs of the whole run.
        global_batch_size: GBS; T-GBS in reinforcement learning.
        micro_batch_size: MBS.
        local_batch_size: Sequences of a data-parallel rank per forward pass (LBS of Automodel).
        seq_len: Tokens per sequence; T-Max Sequence Length in reinforcement learning.
        fsdp: 1 for FSDP, 0 for DDP.
        dp: Data-parallel degree.
        tp: Tensor parallel degree.
        pp: Pipeline parallel degree.
        cp: Context parallel degree.
        vp: Model chunks per pipeline rank.
        ep: Expert parallel degree.
        etp: Tensor parallel degree inside an expert.
        grad_accum_steps: GA.
        num_layers: Layers of the model, if the page prints them: fewer than the model has in a scaled-down run.
        recompute: Activation recomputation, as printed.
        own_recompute: Recomputation of the framework's own benchmark recipe for the row's model, GPUs, system and
            precision, which no page prints; empty if it has none.
        rollouts: Columns of generation; None for other tasks.
        printed: Figures as printed, by metric name; also ``total_tokens_per_sec`` and ``peak_tflops_used``, from which
            tokens/sec/GPU and MFU of some pages follow.
        variant: Part of its cells, where a page prints two values in one: ``inside parentheses``, ``with CP``.
        notes: Remarks on reading it.
        is_draft: The page was a draft: its figures were never released.
    """

    id: str
    source: str
    path: str
    release: str
    task: Literal["pretrain", "sft", "lora", "grpo", "dapo", "swe"]
    framework: str
    model: str
    system: str
    system_title: str
    gpus: Size
    printed: Mapping[str, str]
    commit: str = ""
    date: str = ""
    precision: str = ""
    global_batch_size: Size | None = None
    micro_batch_size: Size | None = None
    local_batch_size: Size | None = None
    seq_len: Size | None = None
    fsdp: Count | None = None
    dp: Count | None = None
    tp: Count | None = None
    pp: Count | None = None
    cp: Count | None = None
    vp: Count | None = None
    ep: Count | None = None
    etp: Count | None = None
    grad_accum_steps: Size | None = None
    num_layers: Size | None = None
    recompute: str = ""
    own_recompute: Literal["", "none", "selective", "full"] = ""
    rollouts: PublishedRollouts | None = None
    section: str = ""
    variant: str = ""
    notes: tuple[str, ...] = ()
    is_draft: bool = False

    @property
    def url(self) -> str:
        """Address of the page at the row's commit; if that is unknown, at its release's tag, or as it is today."""
        if self.path.startswith("https://") or "/" not in self.source:
            return self.path
        if not self.path.endswith((".md", ".mdx")):
            return f"https://github.com/{self.source}"
        tag = self.release if self.release.startswith("v") else "main"
        return f"https://github.com/{self.source}/blob/{self.commit or tag}/{self.path}"

    def value(self, metric: str) -> float | None:
        """Return a printed figure as a number; None if the row does not print it."""
        text = self.printed.get(metric)
        return None if text is None else float(text)

    def rounding(self, metric: str) -> float:
        """Return the largest distance of the true figure from a printed one.

        It is half a unit of the last digit, or half a sequence per second of pages that round to whole ones.
        """
        _, _, decimals = self.printed[metric].partition(".")
        half = 0.5 * 10.0 ** -len(decimals)
        is_rate = metric == TOKENS_PER_SEC_PER_GPU.name
        if is_rate and self.seq_len is not None and prints_whole_sequences(self.source, release=self.release):
            half = max(half, 0.5 * self.seq_len / self.gpus)
        return half


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludedRow:
    """A published row that is no baseline, with the reason.

    Attributes:
        row: The row.
        reason: Sentence with the figures that contradict each other.
    """

    row: PublishedRow
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRows:
    """File of the published rows of a system, or of those that are no baselines.

    Attributes:
        rows: Rows whose figures agree with each other.
        excluded: Rows that contradict themselves, and drafts.
    """

    rows: tuple[PublishedRow, ...] = ()
    excluded: tuple[ExcludedRow, ...] = field(default_factory=tuple)
    schema_version: Literal[1] = _SCHEMA_VERSION
