"""Stored runs of a case: the record beside them, and their measurement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Final, Literal

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.errors import RecordError, os_error_text
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.json_codec import from_data, read_json, to_json
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.measurement import MeasuredRun, Measurement, measure_run, measurement_of
from pytest_nemoperf.measure.steady_state import Drift
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.machine_key import key_of_case
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE
from pytest_nemoperf.runs.execute import read_run
from pytest_nemoperf.schema import read_contract
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.policy import VerdictPolicy

CASE_FILE: Final = "case.json"
_CASE_SCHEMA_VERSION: Final = 1
_UNREADABLE_HINT = "give folders as a session left them"
_CORRUPT_HINT = "copy it again, or launch again"
TRY_SUFFIXES: Final = ("", "b", "c")
"""Endings of the folders in which a run is launched, and launched again where the try before was dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseRecord:
    """Machine, provenance and verdict policy of a case's runs, missing from their own files.

    Attributes:
        case: Case id.
        system: System name.
        machine: Key of the machine they ran on.
        provenance: Date, commit, versions, device and command of the session.
        terms: The verdict policy of the session.
        fail_on: Verdicts that failed a test of the session.
        runs: Folders of the launches that count, in order; a later try replaces the tries before it.
        unreadable: Error of the last run if its records could not be read; empty if all could.
        unfinished: Reason that a further launch was not completed and these runs got no verdict; empty if they got one.
        waiver: Arguments of the test's perf_waive; empty for none.
        release: Release under test; empty if it is not known.
    """

    case: str
    system: str
    machine: Mapping[str, str | int]
    provenance: Provenance
    terms: VerdictPolicy
    fail_on: tuple[VerdictKind, ...]
    runs: tuple[str, ...]
    unreadable: str = ""
    unfinished: str = ""
    waiver: Mapping[str, str | float] = field(default_factory=dict)
    release: str = ""
    schema_version: Literal[1] = _CASE_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCase:
    """Runs of one case, as files.

    Attributes:
        record: Record of the session; of several sessions, the newest.
        plan: Plan of the first run; others may have fewer steps.
        run_dirs: Directories of the runs.
    """

    record: CaseRecord
    plan: Plan
    run_dirs: tuple[Path, ...]


def write_case(case_dir: Path, *, record: CaseRecord) -> None:
    """Write the record of a case beside its runs.

    Raises:
        RecordError: If the folder or the disk does not take it.
    """
    path = case_dir / CASE_FILE
    try:
        write_atomically(path, text=to_json(record))
    except OSError as exc:
        raise RecordError(f"{path}: cannot be written: {os_error_text(exc)}") from exc


def _read_case(case_dir: Path) -> CaseRecord:
    """Read and check the record of a case.

    Raises:
        RecordError: If it is missing, torn, or of another version; the message has its path.
    """
    path = case_dir / CASE_FILE
    if not path.exists():
        raise RecordError(
            f"{case_dir}: has no {CASE_FILE}, which is written when a case's launches are over: they failed, were "
            "interrupted, or were not copied as a whole; launch the case again"
        )
    return read_contract(
        CaseRecord,
        path,
        error=RecordError,
        unreadable_hint=_UNREADABLE_HINT,
        corrupt_hint=_CORRUPT_HINT,
    )


def find_cases(root: Path) -> list[CaseRecord]:
    """Return the records of all cases of a session's folder.

    Raises:
        RecordError: If one can't be read.
    """
    return [_read_case(path.parent) for path in sorted(root.glob(f"*/{CASE_FILE}"))]


def load_case(case_dir: Path) -> StoredCase:
    """Return the runs of a case's folder that the session judged.

    Raises:
        RecordError: If a file is missing, torn, or does not belong there.
    """
    record = _read_case(case_dir)
    return _load([(case_dir / name, record) for name in record.runs])


def load_runs(run_dirs: Sequence[Path]) -> StoredCase:
    """Return runs of one case, of one session or several; a later try of a run replaces earlier ones.

    Args:
        run_dirs: ``<case>/run-<N>`` folders, or one ``<case>`` folder for all that its session judged.

    Raises:
        RecordError: If a file is missing or torn, or two runs do not belong together.
    """
    for run_dir in run_dirs:
        if not run_dir.is_dir():
            raise RecordError(f"{run_dir}: no such folder; give <case>/run-<N> folders, or one <case>")
        if any(run_dir.glob(f"*/{CASE_FILE}")):
            raise RecordError(f"{run_dir}: is a session's folder; give one of the cases in it")
    if len(run_dirs) == 1 and not (run_dirs[0] / PLAN_FILE).exists():
        return load_case(run_dirs[0])
    given = dict.fromkeys(map(Path.absolute, run_dirs))
    dropped: set[Path] = set()
    for run_dir in given:
        dropped.update(_earlier_tries(run_dir))
    runs: list[tuple[Path, CaseRecord]] = []
    records: dict[Path, CaseRecord] = {}
    for run_dir in given:
        if run_dir in dropped:
            continue
        if run_dir.parent not in records:
            records[run_dir.parent] = _read_case(run_dir.parent)
        runs.append((run_dir, records[run_dir.parent]))
    return _load(runs)


def measure_stored(stored: StoredCase, *, framework: Framework) -> Measurement:
    """Return the measurement of stored runs, equal to that of their session.

    Args:
        stored: Runs of one case.
        framework: Adapter that reads their records.

    Raises:
        RecordError: If records are missing or torn that could be read when they were written.
    """
    runs: list[MeasuredRun] = []
    problem = stored.record.unfinished
    for run_dir in stored.run_dirs:
        plan = _read_plan(run_dir)
        try:
            run = measure_run(expected_of(plan), read_run(plan, framework=framework, run_dir=run_dir))
        except RecordError as exc:
            if stored.record.unreadable:
                problem = stored.record.unreadable
                break
            raise RecordError(_missing_record_message(run_dir, error=exc)) from exc
        drifts = tuple(_drifts(plan, framework=framework, run_dirs=_earlier_tries(run_dir)))
        runs.append(replace(run, earlier_drifts=drifts))
    return measurement_of(stored.plan, runs=runs, problem=problem)


def _earlier_tries(run_dir: Path) -> list[Path]:
    """Return the folders of the tries that were dropped for a run."""
    for place, suffix in enumerate(TRY_SUFFIXES[1:], start=1):
        name = run_dir.name.removesuffix(suffix)
        if name != run_dir.name:
            return [run_dir.with_name(name + earlier) for earlier in TRY_SUFFIXES[:place]]
    return []


def _drifts(plan: Plan, *, framework: Framework, run_dirs: Sequence[Path]) -> Iterator[Drift | None]:
    """Yield the drift of each dropped try that is there, can be read and ran on a healthy machine."""
    for run_dir in run_dirs:
        if not (run_dir / PLAN_FILE).exists():
            continue
        with suppress(RecordError):
            run = measure_run(expected_of(plan), read_run(plan, framework=framework, run_dir=run_dir))
            if not run.health_problems:
                yield run.drift


def _missing_record_message(run_dir: Path, *, error: RecordError) -> str:
    """Return the message on records that their session could read; without the hint for writers of records."""
    problem = str(error).rpartition("; ")[0] or str(error)
    if not (run_dir / STEPS_FILE).exists():
        problem = f"{run_dir}: has no {STEPS_FILE}"
    return f"{problem}; its session could read it: copy the folder again as a whole, or launch the case again"


def _load(runs: Sequence[tuple[Path, CaseRecord]]) -> StoredCase:
    if not runs:
        raise RecordError("no run is named; give <case>/run-<N> folders")
    first_dir, first = runs[0]
    plan = _read_plan(first_dir)
    newest = first
    run_dirs = []
    for run_dir, record in runs:
        run_dirs.append(run_dir)
        for problem in _mismatches(run_dir, record=record, plan=plan, first=first):
            raise RecordError(f"{run_dir}: {problem} of {first_dir}; judge runs of one case and machine together")
        if record.provenance.date > newest.provenance.date:
            newest = record
    return StoredCase(record=newest, plan=plan, run_dirs=tuple(run_dirs))


def _mismatches(run_dir: Path, *, record: CaseRecord, plan: Plan, first: CaseRecord) -> Iterator[str]:
    """Yield the differences between a run and the first one, time limit and number of steps apart."""
    own = replace(_read_plan(run_dir), timeout_sec=plan.timeout_sec, steps=plan.steps)
    for item in fields(Plan):
        if getattr(own, item.name) != getattr(plan, item.name):
            yield f"{item.name} is {getattr(own, item.name)!r}, not the {getattr(plan, item.name)!r}"
    num_gpus = plan.layout.total_gpus
    if key_of_case(record.machine, num_gpus=num_gpus) != key_of_case(first.machine, num_gpus=num_gpus):
        yield "its machine is not that"
    if (record.case, record.system) != (plan.case, plan.system):
        yield f"its {CASE_FILE} is of {record.case} on {record.system}, not of the plan"


def _read_plan(run_dir: Path) -> Plan:
    path = run_dir / PLAN_FILE
    data = read_json(path, unreadable_hint=_UNREADABLE_HINT, corrupt_hint=_CORRUPT_HINT, is_finite=True)
    return from_data(Plan, data, subject=str(path))
