"""Contradictions of published rows: figures of a row, or of two rows of a page, that cannot all be right.

A row's figures are checked against each other within what their printed digits leave open. Each contradiction is a
sentence with the figures. A row that has one is no baseline: nobody can say which of its figures was measured.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.flops.published import find_published_model
from pytest_nemoperf.published.row import PublishedRollouts, PublishedRow
from pytest_nemoperf.published.row_model import row_convention, row_model

_RATE: Final = "tokens_per_sec_per_gpu"
_TFLOPS: Final = "tflops_per_sec_per_gpu"
_STEP_TIME: Final = "step_time_sec"
_MFU: Final = "mfu_pct"
_PEAK: Final = "peak_tflops_used"
_TOTAL: Final = "total_tokens_per_sec"
_UNITS: Final = MappingProxyType({_RATE: "tokens/s/GPU", _TFLOPS: "TFLOP/s/GPU", _STEP_TIME: "s a step"})
_TFLOPS_TOLERANCE: Final = 0.003
"""Beyond the rounding of the printed figures; FLOPs of a page's own code differ by so much."""
_TOTALS_TOLERANCE: Final = 0.005
_MFU_TOLERANCE: Final = 0.01
"""Pages compute MFU by a formula in their text, of constants that are rounded to 1%."""
_SAMPLE_TOLERANCE: Final = 0.02
_CAPACITY: Final = re.compile(r"\s*\((tokendrop|dropless)\)", re.IGNORECASE)


class ContradictionKind(StrEnum):
    """Figures that contradict each other; the first that applies to a row counts."""

    DRAFT = "draft"
    TFLOPS = "TFLOP/s against tokens/s"
    ACCUMULATION = "GA against the batch"
    DEGREES = "degrees against GPUs or batch"
    TOTALS = "totals against rates"
    MFU = "MFU against tokens/s"
    SAMPLES = "tokens/s against lengths"
    SUPERSEDED = "printed again, or corrected"
    TWINS = "other figures for the same columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contradiction:
    """A contradiction of a row.

    Attributes:
        kind: Figures that contradict each other.
        reason: Sentence with them.
    """

    kind: ContradictionKind
    reason: str


def find_contradictions(rows: Sequence[PublishedRow]) -> Mapping[str, Contradiction]:
    """Return the contradiction of each row that has one, by the row's id.

    Args:
        rows: All published rows of all systems: some are checked against each other.
    """
    drafts = [row for row in rows if row.is_draft]
    found: dict[str, Contradiction] = {}
    for row in rows:
        for kind, reason in _contradictions(row):
            found.setdefault(row.id, Contradiction(kind=kind, reason=reason))
        if row.is_draft:
            found[row.id] = Contradiction(kind=ContradictionKind.DRAFT, reason=_draft(row, drafts=drafts))
    for row_id, kind, reason in [*_odd_samples(rows), *_superseded(rows)]:
        found.setdefault(row_id, Contradiction(kind=kind, reason=reason))
    return found


def tflops_contradiction(row: PublishedRow, *, convention: str = "") -> str:
    """Return a sentence if a row's TFLOP/s don't follow from its tokens/s; empty if they do, or if one is not printed.

    Args:
        row: A row.
        convention: Name of the FLOPs convention; empty for the one that the row's page counts under.

    Raises:
        RecipeError: If the model is unknown, or nothing is known about the source.
    """
    if row.value(_RATE) is None or row.value(_TFLOPS) is None or not row.seq_len:
        return ""
    name = convention or row_convention(row)
    tflops_per_token = _tflops_per_token(row, convention=name)
    tokens = float(row.printed[_RATE])
    tflops = float(row.printed[_TFLOPS])
    error = row.rounding(_RATE) * tflops_per_token + row.rounding(_TFLOPS)
    expected = tokens * tflops_per_token
    if abs(tflops - expected) <= error or abs(tflops / expected - 1) <= _TFLOPS_TOLERANCE:
        return ""
    return (
        f"prints {row.printed[_TFLOPS]} TFLOP/s/GPU, and {row.printed[_RATE]} tokens/s/GPU x "
        f"{1000 * tflops_per_token:.2f} GFLOP a token ({name}) are {expected:.1f}"
    )


def sample_tokens(row: PublishedRow, rollouts: PublishedRollouts) -> float:
    """Return the tokens of a sample, prompt included, that follow from a row's speed and step time."""
    return float(row.printed[_RATE]) * float(row.printed[_STEP_TIME]) * row.gpus / rollouts.num_samples


def sample_text(row: PublishedRow, rollouts: PublishedRollouts) -> str:
    """Return the arithmetic of sample_tokens as text."""
    return (
        f"{row.printed[_RATE]} tokens/s/GPU x {row.gpus} GPUs x {row.printed[_STEP_TIME]} s / {rollouts.num_samples} "
        f"samples are {sample_tokens(row, rollouts):.0f}"
    )


def _contradictions(row: PublishedRow) -> Iterator[tuple[ContradictionKind, str]]:
    """Yield the contradictions inside a row."""
    if row.rollouts is not None:
        return
    try:
        reason = tflops_contradiction(row)
    except RecipeError:  # a model outside of the catalog can't be checked
        reason = ""
    if reason:
        yield ContradictionKind.TFLOPS, reason
    for reason in _odd_degrees(row):
        yield ContradictionKind.DEGREES, reason
    for reason in _odd_accumulation(row):
        yield ContradictionKind.ACCUMULATION, reason
    for reason in _odd_totals(row):
        yield ContradictionKind.TOTALS, reason
    for reason in _odd_mfu(row):
        yield ContradictionKind.MFU, reason


def _odd_degrees(row: PublishedRow) -> Iterator[str]:
    """Yield degrees that don't fit the GPUs, or the batch."""
    product = (row.tp or 1) * (row.pp or 1) * (row.cp or 1)
    text = f"tp*pp*cp = {row.tp or 1}*{row.pp or 1}*{row.cp or 1} = {product}"
    if row.gpus % product:
        yield f"prints {row.gpus} GPUs, which {text} does not divide"
        return
    ranks = row.gpus // product
    # Some pages count copies of experts alone: dp*ep is then the number of data-parallel ranks.
    if row.dp and ranks not in (row.dp, row.dp * (row.ep or 1)):
        yield f"prints DP {row.dp}, and {row.gpus} GPUs with {text} leave {ranks} data-parallel ranks"
    experts = (row.ep or 1) * (row.etp or 1)
    shared = ranks * (row.cp or 1) * (row.tp or 1)
    if shared % experts:
        yield f"prints EP {row.ep}, and {row.gpus} GPUs with PP {row.pp} leave {shared} ranks to a stage for it"
    if row.tp is None or not row.global_batch_size:
        return
    micro_batch = row.micro_batch_size or 1
    if row.global_batch_size % (micro_batch * ranks):
        yield (
            f"prints GBS {row.global_batch_size}, and MBS {micro_batch} on {ranks} data-parallel ranks needs a "
            f"multiple of {micro_batch * ranks}"
        )


def _odd_accumulation(row: PublishedRow) -> Iterator[str]:
    """Yield a printed accumulation that does not follow from the batch."""
    # Automodel accumulates local batches, which a pipeline cuts into micro-batches.
    batch = row.local_batch_size or row.micro_batch_size
    product = (row.tp or 1) * (row.pp or 1) * (row.cp or 1)
    if not row.grad_accum_steps or not row.global_batch_size or not batch or row.tp is None or row.gpus % product:
        return
    ranks = row.gpus // product
    if row.global_batch_size == row.grad_accum_steps * batch * ranks:
        return
    name = "LBS" if row.local_batch_size else "MBS"
    yield (
        f"prints GA {row.grad_accum_steps}, and GBS {row.global_batch_size} / ({name} {batch} x {ranks} data-parallel "
        f"ranks) is {row.global_batch_size / (batch * ranks):g}"
    )


def _odd_totals(row: PublishedRow) -> Iterator[str]:
    """Yield totals over GPUs or over a step that don't follow from the rate."""
    rate = row.value(_RATE)
    if rate is None:
        return
    total = row.value(_TOTAL)
    if total is not None and abs(rate * row.gpus / total - 1) > _TOTALS_TOLERANCE:
        yield (
            f"prints {row.printed[_TOTAL]} tokens/s over all GPUs, and {row.printed[_RATE]} x {row.gpus} are "
            f"{rate * row.gpus:.0f}"
        )
    step_time = row.value(_STEP_TIME)
    if step_time is None or not row.global_batch_size or not row.seq_len:
        return
    tokens = row.global_batch_size * row.seq_len
    if abs(step_time * rate * row.gpus / tokens - 1) > _TOTALS_TOLERANCE + row.rounding(_STEP_TIME) / step_time:
        yield (
            f"prints {row.printed[_STEP_TIME]} s a step at {row.printed[_RATE]} tokens/s on each of {row.gpus} GPUs, "
            f"{step_time * rate * row.gpus:.0f} tokens, and GBS {row.global_batch_size} x {row.seq_len} are {tokens}"
        )


def _odd_mfu(row: PublishedRow) -> Iterator[str]:
    """Yield a printed MFU that does not follow from the rate; of pre-training, other tasks' formulas are unknown."""
    rate = row.value(_RATE)
    peak = row.value(_PEAK)
    mfu = row.value(_MFU)
    if row.task != "pretrain" or rate is None or peak is None or mfu is None or not row.seq_len:
        return
    try:
        convention = row_convention(row)
        tflops_per_token = _tflops_per_token(row, convention=convention)
    except RecipeError:
        return
    expected = 100 * rate * tflops_per_token / peak
    if abs(expected / mfu - 1) <= _MFU_TOLERANCE + row.rounding(_MFU) / mfu:
        return
    layers = f"{row.num_layers} layers, " if row.num_layers else ""
    text = (
        f"prints {row.printed[_MFU]}% MFU, and {row.printed[_RATE]} tokens/s/GPU x {1000 * tflops_per_token:.2f} "
        f"GFLOP a token ({layers}{convention}) are {expected:.1f}% of {row.printed[_PEAK]} TFLOP/s"
    )
    num_layers = find_published_model(row.model).num_layers
    if row.num_layers not in (None, num_layers):
        whole = 100 * rate * _tflops_per_token(replace(row, num_layers=None), convention=convention) / peak
        text += f"; all {num_layers} layers of the model would be {whole:.1f}%"
    yield text


def _odd_samples(rows: Sequence[PublishedRow]) -> Iterator[tuple[str, ContradictionKind, str]]:
    """Yield rows with tokens of a sample that contradict lengths and the model's other rows, and the reason."""
    samples = []
    for row in rows:
        if row.rollouts is not None:
            samples.append((row, row.rollouts, find_published_model(row.model).name))
    for row, rollouts, model in samples:
        prompts = []
        for other, columns, name in samples:
            if name == model and other is not row:
                prompts.append(sample_tokens(other, columns) - columns.mean_response_len)
        if not prompts:
            continue
        prompt = statistics.median(prompts)
        expected = rollouts.mean_response_len + prompt
        tokens = sample_tokens(row, rollouts)
        if prompt >= 0 and abs(tokens / expected - 1) <= _SAMPLE_TOLERANCE:
            continue
        text = f"{sample_text(row, rollouts)} tokens a sample"
        if tokens < rollouts.mean_response_len:
            text += f", fewer than the {rollouts.mean_response_len} generated"
        else:
            text += (
                f", and {rollouts.mean_response_len} generated with the {prompt:.0f} of a prompt in the model's "
                f"other rows are {expected:.0f}"
            )
        yield row.id, ContradictionKind.SAMPLES, text


def _draft(row: PublishedRow, *, drafts: Sequence[PublishedRow]) -> str:
    """Return the reason of a draft: prompts implied by its rate and by those of the other drafts."""
    parts = []
    for each in sorted(drafts, key=lambda draft: draft.id):
        if each.rollouts is None or each.source != row.source:
            continue
        prompt = sample_tokens(each, each.rollouts) - each.rollouts.mean_response_len
        parts.append(f"{sample_text(each, each.rollouts)} tokens a sample, {prompt:.0f} of them prompt ({each.id})")
    text = "a draft that was never released"
    if len(parts) > 1:
        text += f"; on one dataset {' and '.join(parts)}"
    return text


def _superseded(rows: Sequence[PublishedRow]) -> Iterator[tuple[str, ContradictionKind, str]]:
    """Yield rows printed again, or corrected, by a later version of their page, and the reason.

    Of rows with the same columns in one version of a page, the one whose name says more remains if their figures are
    equal, and none if they differ.
    """
    groups: dict[object, list[PublishedRow]] = {}
    for row in rows:
        groups.setdefault(_columns(row), []).append(row)
    for group in groups.values():
        last = max(group, key=lambda row: (row.date, len(row.model), row.id))
        for row in group:
            if row is last:
                continue
            if row.date != last.date or row.printed == last.printed:
                yield row.id, ContradictionKind.SUPERSEDED, f"superseded: {_later_text(row, last=last)}"
                continue
            for one, other in ((row, last), (last, row)):
                text = f"prints {_figures(one)}, and {other.id} {_figures(other)} for the same columns"
                yield one.id, ContradictionKind.TWINS, text


def _columns(row: PublishedRow) -> object:
    """Return the columns that tell a row from others of its page, without figures and columns that pages corrected."""
    plain = replace(
        row,
        id="",
        path="",
        commit="",
        date="",
        section="",
        system_title="",
        printed={},
        model=_CAPACITY.sub("", row.model),
        fsdp=None if row.fsdp is None else int(row.fsdp > 0),
        notes=tuple(note for note in row.notes if note.startswith(("techniques", "quantization"))),
    )
    return repr(plain)


def _later_text(row: PublishedRow, *, last: PublishedRow) -> str:
    date = f" of {last.date}" if last.date != row.date else ""
    if row.printed != last.printed:
        return f"the page{date} prints {_figures(last)} in place of {_figures(row)} ({last.id})"
    if row.model != last.model:
        return f"the page prints it again as {last.model!r} ({last.id})"
    return f"the page{date} prints it again ({last.id})"


def _figures(row: PublishedRow) -> str:
    figures = []
    for metric, unit in _UNITS.items():
        if metric in row.printed:
            figures.append(f"{row.printed[metric]} {unit}")
    return " and ".join(figures)


def _tflops_per_token(row: PublishedRow, *, convention: str) -> float:
    flops = num_flops_per_token(
        row_model(row), seq_len=row.seq_len or 0, convention=find_convention(convention), tp=row.tp or 1
    )
    return flops / 1e12
