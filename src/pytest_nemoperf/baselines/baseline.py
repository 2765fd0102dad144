"""Baselines of cases: accepted runs, comparability with a measurement, figures that are possible. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Literal

from pytest_nemoperf.baselines.far_off import far_off_figures
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.kernel import comparable_workload
from pytest_nemoperf.measure.measurement import Measurement, Run, identity_problem
from pytest_nemoperf.records.figures import Change, Positive
from pytest_nemoperf.records.machine_key import key_of_case, num_gpus_of
from pytest_nemoperf.records.metrics import JUDGED, KL, METRICS, REWARD_MEAN, STEP_TIME_SEC
from pytest_nemoperf.records.profile import Profile
from pytest_nemoperf.records.provenance import Provenance

BASELINE_SCHEMA_VERSION: Final = 1
_MAY_BE_NEGATIVE = (REWARD_MEAN.name, KL.name)
_POSITIVE = (*(metric.name for metric in JUDGED), STEP_TIME_SEC.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Older runs of the same workload, kept beside the newest baseline to detect slow decay.

    Attributes:
        name: Release of the runs, or their date.
        runs: One entry per launch.
        provenance: Date, commit, device and command.
    """

    name: str
    runs: tuple[Run, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSource:
    """Page that the single figure of a published baseline was taken from.

    Attributes:
        row: Id of the published row.
        release: Release as the page names it.
        source: Repository or site of the page.
        url: Address of the page.
        framework: Framework that ran it.
        notes: Differences between the row and the plan it is compared with that may change speed, settings that the
            page does not print, remarks on reading the row.
        rounding_pct: Largest distance of the true figure from the printed one, percent, by name of metric.
    """

    row: str
    release: str
    source: str
    url: str
    framework: str
    notes: tuple[str, ...] = ()
    rounding_pct: Mapping[str, Change] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Source and release, for sentences."""
        return f"{self.source} {self.release}"

    @property
    def place(self) -> str:
        """Address of the page, else the row's id."""
        return self.url or f"published:{self.row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Accepted runs of one case on one system.

    Attributes:
        case: Case id; the file's name.
        system: System name; the folder's name.
        machine: Key of the machine: only the same key compares.
        workload: The workload as plain data: only the same compares.
        runs: One entry per launch; the noise between them is the noise of the case.
        provenance: Date, commit, versions, device and command.
        reason: Reason for recording it, or for accepting a regression.
        environment: Versions and settings inside the processes that ran the steps.
        flops_per_token: Model FLOPs per token; None if FLOPs are not known.
        flops_convention: Name of the FLOPs convention.
        anchor: Runs from which slow decay is measured; None to measure it from this baseline.
        published: Page of a published figure: one value without spread, and a workload that holds only what the page
            prints; None for runs of this project.
    """

    case: str
    system: str
    machine: Mapping[str, str | int]
    workload: Mapping[str, Any]
    runs: tuple[Run, ...]
    provenance: Provenance
    reason: str
    environment: Mapping[str, str] = field(default_factory=dict)
    flops_per_token: Positive | None = None
    flops_convention: str | None = None
    anchor: Anchor | None = None
    published: PublishedSource | None = None
    schema_version: Literal[1] = BASELINE_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Difference between a stored file and a measurement that keeps them from being compared.

    Attributes:
        subject: ``machine`` or ``workload``.
        text: Sentence with the key and both values.
    """

    subject: Literal["machine", "workload"]
    text: str


def find_mismatches(
    stored: Baseline | Profile, *, machine: Mapping[str, str | int], workload: Mapping[str, Any]
) -> list[Mismatch]:
    """Return every difference in machine and workload; empty if the stored file compares.

    A published baseline has only what its page prints: no machine, and the keys of the workload that are printed. Of
    the machines counts what a case of so many GPUs depends on: stored keys of older versions hold more. Their layouts
    hold less: what they lack had its default. A benchmark test stored without its kernel compares with one that states
    it.
    """
    if isinstance(stored, Baseline) and stored.published is not None:
        return list(_differences("workload", then=stored.workload, now=_only(workload, keys=stored.workload)))
    num_gpus = num_gpus_of(stored.workload)
    then = key_of_case(stored.machine, num_gpus=num_gpus)
    now = key_of_case(machine, num_gpus=num_gpus)
    asked = comparable_workload(workload, then=stored.workload)
    return [
        *_differences("machine", then=then, now=now),
        *_differences("workload", then=_with_whole_layout(stored.workload), now=_with_whole_layout(asked)),
    ]


def counts_flops_alike(one: Baseline | Measurement, *, other: Baseline) -> bool:
    """Return whether TFLOP/s compare: FLOPs per token must be equal too, as a convention's formula may be corrected."""
    return (one.flops_convention, one.flops_per_token) == (other.flops_convention, other.flops_per_token)


def from_measurement(
    measurement: Measurement, *, machine: Mapping[str, str | int], provenance: Provenance, reason: str
) -> Baseline:
    """Return a sound measurement as a baseline.

    Raises:
        BaselineError: If the measurement is invalid, empty or has an injected delay.
    """
    if measurement.inject_pct:
        raise BaselineError(f"{measurement.case}: a run with an injected delay is never stored")
    if measurement.problems or not measurement.runs:
        problems = "; ".join(measurement.problems) or "no run was measured"
        raise BaselineError(f"{measurement.case}: only complete, valid runs are stored, but {problems}")
    return Baseline(
        case=measurement.case,
        system=measurement.system,
        machine=machine,
        workload=measurement.workload,
        # Names of hosts are of no use later, and don't belong in a committed file.
        runs=tuple(
            replace(run, hosts=(), unknown={}, session=run.session or provenance.date) for run in measurement.runs
        ),
        provenance=provenance,
        reason=reason,
        environment=measurement.environment,
        flops_per_token=measurement.flops_per_token,
        flops_convention=measurement.flops_convention,
    )


def impossible_figures(baseline: Baseline) -> Iterator[str]:
    """Yield a sentence for each figure that can't have been measured; the ranges of single ones are in their types."""
    sides = [("$.runs", baseline.runs)]
    if baseline.anchor:
        sides.append(("$.anchor.runs", baseline.anchor.runs))
    for place, runs in sides:
        if not runs:
            yield f"{place} is empty; a baseline needs at least one run"
        for number, run in enumerate(runs):
            metrics = f"{place}[{number}].metrics"
            for name in _POSITIVE:
                if run.metrics.get(name, 1.0) <= 0:
                    yield f"{metrics}.{name} is {run.metrics[name]:g}; only positive figures can be compared"
            for name, value in run.metrics.items():
                if value < 0 and name in METRICS and name not in (*_POSITIVE, *_MAY_BE_NEGATIVE):
                    yield f"{metrics}.{name} is {value:g}; it can't be negative"
            problem = identity_problem(run, flops_per_token=baseline.flops_per_token)
            if problem:
                yield f"{metrics}: {problem}"
        for each in far_off_figures(runs):
            yield f"{place}[{each.index}].metrics.{each.text}"


def _differences(
    subject: Literal["machine", "workload"], *, then: Mapping[str, Any], now: Mapping[str, Any], parents: str = ""
) -> Iterator[Mismatch]:
    """Yield the differences of two mappings; parents are the keys above them, each with a colon."""
    for key in sorted({*then, *now}):
        before = then.get(key)
        after = now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(subject, then=before, now=after, parents=f"{parents}{key}: ")
        elif before != after:
            stored = repr(before) if key in then else "the default"  # stored workloads leave defaults out
            shown = repr(after) if key in now else "the default"
            text = f"other {subject}: {parents}{key} is {shown}, {stored} in the baseline"
            yield Mismatch(subject=subject, text=text)


def _with_whole_layout(workload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a workload with every field of its layout, those that it lacks with their defaults."""
    layout = workload.get("layout")
    if not isinstance(layout, Mapping):
        return workload
    return {**workload, "layout": {**_layout_defaults(), **layout}}


@cache
def _layout_defaults() -> Mapping[str, Any]:
    return MappingProxyType(to_data(Layout(gpus=1)))


def _only(values: Mapping[str, Any], *, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values under keys of another mapping, at every depth."""
    kept = {}
    for key, wanted in keys.items():
        if key not in values:
            continue
        value = values[key]
        if isinstance(wanted, Mapping) and isinstance(value, Mapping) and key != "model":  # a model is printed whole
            value = _only(value, keys=wanted)
        kept[key] = value
    return kept
