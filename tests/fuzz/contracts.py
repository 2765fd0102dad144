"""Targets of our own JSON files: baselines, a case's folder, results, releases, profiles, published rows, notes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.ab.measure_request import MeasureRequest
from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import baseline_path, read_baseline
from pytest_nemoperf.baselines.profile_store import PROFILES_DIR, find_profile
from pytest_nemoperf.cli.given import GivenCase
from pytest_nemoperf.cli.judge import verdict_on
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.launch import LAUNCH_FILE, Launch, OldFile, noted_launch
from pytest_nemoperf.json_codec import from_json, read_data, to_json, to_json_line, to_printed_json
from pytest_nemoperf.lint.findings import lint_baseline, lint_profile
from pytest_nemoperf.lint.other_files import lint_published, lint_release
from pytest_nemoperf.measure.expected_records import expected_of
from pytest_nemoperf.measure.measurement import Measurement, measure_run, measurement_of, workload_of
from pytest_nemoperf.pages.own_published import own_published
from pytest_nemoperf.pages.releases import PUBLISHED_FOLDER, RELEASES_FOLDER, read_release
from pytest_nemoperf.pages.stored_rows import read_session
from pytest_nemoperf.published.row import PublishedRows
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.health import HEALTH_FILE, GpuHealth, HealthReport, MinMedianMax
from pytest_nemoperf.records.profile import Profile
from pytest_nemoperf.records.step import PLAN_FILE, RESULT_FILE, STEPS_FILE, Progress, RankError, RunOutput
from pytest_nemoperf.records.yardstick import RUN_YARDSTICKS_FILE, RunYardsticks, Yardstick
from pytest_nemoperf.report.ci.github import case_annotation, render_annotation
from pytest_nemoperf.report.ci.junit import properties
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.report.row_formats import csv_text
from pytest_nemoperf.results.cases import CaseReport, SessionResults
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.rows import row_of_baseline, row_of_published
from pytest_nemoperf.runs.execute import read_run
from pytest_nemoperf.runs.replay import StoredCase, load_case, measure_stored
from pytest_nemoperf.verdict.judge import Verdict
from pytest_nemoperf.verdict.policy import system_policy, with_noise
from tests.builders import (
    MACHINE,
    make_baseline,
    make_measurement,
    make_plan,
    make_profile,
    make_records,
    make_rl_plan,
)
from tests.fuzz import mutate
from tests.fuzz.target import Mutate, Target, Use, command
from tests.report.builders import make_passed, make_regressed, make_results, make_rl_report
from tests.results.row_builders import make_release, make_row
from tests.runs.stored_runs import make_record, store_case

PLAN: Final = make_plan(timeout_sec=60.0)
PAGE: Final = """\
# Ours

By hand: a | b.
<!-- nemoperf:begin tables frameworks=torch,automodel systems=cpu,h100 -->
| old | table |
<!-- nemoperf:end -->

<!-- nemoperf:begin native systems=cpu -->
<!-- nemoperf:end -->
the end
"""
_CATALOG: Final = Path(mutate.__file__).parents[2] / "src" / "pytest_nemoperf" / "catalog" / "published"
_MAX_AGE_DAYS: Final = 90


def changed_json(raw: bytes, random: Random) -> bytes:
    """Return changed JSON."""
    return mutate.mutated_json(raw, random=random)


def _changed_lines(raw: bytes, random: Random) -> bytes:
    return mutate.mutated_jsonl(raw, random=random)


def written(value: object) -> bytes:
    """Return a value as its file has it."""
    return to_json(value).encode()


def make_stored(root: Path) -> Path:
    """Store a baseline and a case of its plan; return the case's folder."""
    path = _baseline_path(root)
    path.parent.mkdir(parents=True)
    path.write_bytes(written(_baseline()))
    store_case(root / "case", plan=PLAN, times=(0.1, 0.101))
    return root / "case"


def _baseline_path(root: Path) -> Path:
    return baseline_path(root / "baselines", system="cpu", case=PLAN.case)


def _baseline() -> Baseline:
    return make_baseline((1000.0, 1010.0), case=PLAN.case, workload=workload_of(PLAN), machine=MACHINE)


def baseline_file(root: Path) -> Target:
    """A stored baseline, which cases are judged by."""
    given = _given(load_case(make_stored(root)))
    (root / "page.md").write_text(PAGE)
    (root / "other.json").write_bytes(written(_baseline()))
    path = _baseline_path(root)
    rl = make_rl_plan()
    rl_baseline = make_baseline((1000.0,), case=rl.case, workload=workload_of(rl))
    folder = ("--baselines", root / "baselines")
    policy = system_policy(find_system("cpu"))
    today = datetime.now(UTC).date()
    return Target(
        path=path,
        seeds=[path.read_bytes(), path.read_bytes(), written(rl_baseline)],
        mutate=changed_json,
        read=partial(read_baseline, path),
        checks=[
            lambda each: lint_baseline(each, path=str(path), policy=policy, today=today, max_age_days=_MAX_AGE_DAYS),
            lambda each: row_of_baseline(each, path=str(path)),
            lambda each: verdict_on(given, baseline=each, looked_in=""),
        ],
        uses=[
            command("judge", *folder, root / "case"),
            command("lint", root / "baselines"),
            command("lint", "--json", root / "baselines"),
            command("lint", "--github", root / "baselines"),
            command("show", "system:cpu", *folder),
            command("show", "system:cpu", *folder, "--format", "csv"),
            command("show", "system:cpu", *folder, "--format", "markdown"),
            command("show", "system:cpu", *folder, "--format", "json"),
            command("show", "system:cpu", *folder, "--details"),
            command("compare", "system:cpu", root / "other.json", *folder),
        ],
    )


def _given(stored: StoredCase) -> GivenCase:
    """Return a stored case, measured, as ``nemoperf judge`` has it."""
    record = stored.record
    return GivenCase(
        plan=stored.plan,
        measurement=measure_stored(stored, framework=builtin_frameworks()[stored.plan.framework]),
        machine=record.machine,
        provenance=record.provenance,
        policy=replace(with_noise(record.terms, texts=[], subject="--noise"), has_given_runs=True),
        fail_on=frozenset(record.fail_on),
        record=record,
    )


def _read_given(case: Path) -> GivenCase | None:
    stored = load_case(case)
    if stored.plan.framework not in builtin_frameworks():
        return None
    return _given(stored)


def _judged(given: GivenCase | None, *, baseline: Baseline) -> Verdict | None:
    if given is None:
        return None
    return verdict_on(given, baseline=baseline, looked_in="")


def _of_case(name: str, root: Path) -> Target:
    """A file that the whole case depends on; it has one run."""
    case = make_stored(root)
    path = case / name
    (case / "case.json").write_bytes(written(make_record(PLAN, runs=("run-1",), machine=MACHINE)))
    return Target(
        path=path,
        seeds=[path.read_bytes()],
        mutate=changed_json,
        read=partial(_read_given, case),
        checks=[partial(_judged, baseline=_baseline())],
        uses=_uses_of(root, case),
    )


def _uses_of(root: Path, case: Path) -> list[Use]:
    judge = partial(command, "judge", "--baseline", _baseline_path(root), case)
    return [judge(), judge("--json"), command("record", "--baselines", root / "new", "--json", case)]


def _of_run(name: str, root: Path, *, content: bytes | None = None, change: Mutate = changed_json) -> Target:
    """A file of a run; the plan and the other run are read once."""
    case = make_stored(root)
    given = _given(load_case(case))
    framework = builtin_frameworks()[PLAN.framework]
    path = case / "run-1" / name
    if content is not None:
        path.write_bytes(content)
    other = measure_run(expected_of(PLAN), read_run(PLAN, framework=framework, run_dir=case / "run-2"))
    baseline = _baseline()

    def judged(output: RunOutput) -> Verdict:
        measured = measurement_of(PLAN, runs=[measure_run(expected_of(PLAN), output), other])
        return verdict_on(replace(given, measurement=measured), baseline=baseline, looked_in="")

    return Target(
        path=path,
        seeds=[path.read_bytes()],
        mutate=change,
        read=partial(read_run, PLAN, framework=framework, run_dir=case / "run-1"),
        checks=[judged],
        uses=_uses_of(root, case),
    )


def case_file(root: Path) -> Target:
    """The record of a case, with and without a waiver."""
    waived = make_record(
        PLAN, waiver={"reason": "slow", "until": "2999-12-31", "floor": 50}, runs=("run-1",), machine=MACHINE
    )
    target = _of_case("case.json", root)
    return replace(target, seeds=[*target.seeds, written(waived)])


def plan_file(root: Path) -> Target:
    """The plan of a run."""
    return _of_case(f"run-1/{PLAN_FILE}", root)


def result_file(root: Path) -> Target:
    """The result of a run."""
    return _of_run(RESULT_FILE, root)


def health_file(root: Path) -> Target:
    """The state of the machine during a run."""
    gpu = GpuHealth(
        gpu=0,
        sm_clock_mhz=MinMedianMax(low=1900.0, median=1980.0, high=1980.0),
        power_cap_w=700.0,
        reasons={"sw_power_cap": 0.5},
    )
    report = HealthReport(seconds=1.0, num_samples=10, is_measured_steps=True, gpus=(gpu,))
    return _of_run(HEALTH_FILE, root, content=written(report))


def yardsticks_file(root: Path) -> Target:
    """The times of the fixed workload around a run."""
    each = Yardstick(matmul_sec=0.001, copy_sec=0.002, all_reduce_sec=0.003)
    around = RunYardsticks(before=(each,), after=(each,))
    return _of_run(RUN_YARDSTICKS_FILE, root, content=written(around))


def steps_file(root: Path) -> Target:
    """The step records of a run."""
    content = "\n".join([to_json_line(each).strip() for each in make_records(PLAN)]).encode()
    return _of_run(STEPS_FILE, root, content=content, change=_changed_lines)


def _one_of(kinds: Sequence[tuple[bytes, Callable[[Path], object]]], root: Path) -> Target:
    """Small files of several kinds; the number of an input's kind is its first line."""
    path = root / "note"
    seeds = [b"%d\n%b" % (number, seed) for number, (seed, _) in enumerate(kinds)]

    def change(raw: bytes, random: Random) -> bytes:
        number, _, text = raw.partition(b"\n")
        return number + b"\n" + changed_json(text, random)

    def read() -> object:
        number, _, text = path.read_bytes().partition(b"\n")
        (root / LAUNCH_FILE).write_bytes(text)
        return kinds[int(number)][1](root)

    return Target(path=path, seeds=seeds, mutate=change, read=read)


def note_file(root: Path) -> Target:
    """Notes between our own processes: of a launch, a rank's error, a line of progress, a request, a measurement."""
    error = RankError(rank=0, time_sec=1.5, message="ValueError: x", traceback="Traceback", error_type="ValueError")
    path = root / LAUNCH_FILE

    def of(kind: type) -> Callable[[Path], object]:
        return lambda _: read_data(kind, path)

    launch = Launch(
        time_sec=1.5,
        directory="/x",
        log_file="{run_dir}/log",
        old_files={"/x/log": OldFile(size=12, changed_ns=5, ending="ab")},
    )
    request = MeasureRequest(nodeid="a.py::test", system="cpu", variables={"A": "1"})
    kinds: list[tuple[bytes, Callable[[Path], object]]] = [
        (to_json_line(launch).encode(), noted_launch),
        (to_json_line(error).encode(), of(RankError)),
        (to_json_line(request).encode(), of(MeasureRequest)),
        (to_json_line(make_measurement((1000.0,))).encode(), of(Measurement)),
        (b'{"step": 3, "step_time_sec": 0.5}', lambda _: from_json(Progress, path.read_bytes(), subject="progress")),
    ]
    return _one_of(kinds, root)


def results_file(root: Path) -> Target:
    """The results of a session."""
    make_stored(root)
    path = root / "results.json"
    (root / "page.md").write_text(PAGE)
    seeds = []
    for report in (make_passed(PLAN.case), make_regressed("b"), make_rl_report()):
        seeds.append(to_json_line(make_results(report)).encode())
    return Target(
        path=path,
        seeds=seeds,
        mutate=changed_json,
        read=partial(read_session, path),
        checks=[_commands_of, lambda each: csv_text(each[1])],
        uses=[
            lambda: _printed_reports(path),
            command("show", path),
            command("show", path, "--format", "markdown"),
            command("show", path, "--details"),
            command("compare", path, "system:cpu", "--baselines", root / "baselines", "--all"),
            command("page", "--results", path, "--template", root / "page.md"),
        ],
        period=100,
    )


def _commands_of(session: tuple[SessionResults, list[Row]]) -> str:
    """Return the workflow commands of a session's cases, one line each.

    Raises:
        AssertionError: If a text of the file begins a command of its own.
    """
    lines = []
    for case in session[0].cases:
        annotation = case_annotation(case, file="a.py", line=3)
        if annotation is not None:
            lines.append(render_annotation(annotation))
    text = "\n".join(lines)
    assert len(text.splitlines()) == len(lines), f"a command of more than one line: {text!r}"
    return text


def _printed_reports(path: Path) -> None:
    """Print the reports of a session: Markdown, properties of JUnit, JSON."""
    results, _ = read_session(path)
    print(render_markdown(results))
    for case in results.cases:
        report = CaseReport(result=case, baseline=None, environment={})
        for name, value in properties(report):
            print(name, value)
        print(to_printed_json(case))


def release_file(root: Path) -> Target:
    """The frozen rows of a release."""
    make_stored(root)
    (root / "page.md").write_text(PAGE)
    folder = root / "baselines" / RELEASES_FOLDER
    folder.mkdir()
    (folder / "0.3.json").write_bytes(written(make_release("0.3", make_row())))
    path = folder / "0.4.json"
    given = ("--baselines", root / "baselines")
    return Target(
        path=path,
        seeds=[
            written(make_release("0.4", make_row(), previous="0.3")),
            written(make_release("0.4", make_row(case="b", system="cpu", framework="nemo_rl", workload="rl"))),
        ],
        mutate=changed_json,
        read=partial(read_release, path),
        checks=[lambda _: lint_release(path), lambda each: csv_text(each.rows)],
        uses=[
            command("show", "release:0.4", *given),
            command("show", "release:0.4", *given, "--format", "markdown"),
            command("compare", "release:0.3", "release:0.4", *given),
            command("release", "--show", "0.4", *given),
            command("lint", root / "baselines"),
        ],
    )


def profile_file(root: Path) -> Target:
    """The profile stored with a baseline."""
    make_stored(root)
    of = _baseline_path(root)
    path = of.parent / PROFILES_DIR / of.name
    path.parent.mkdir()
    baseline = _baseline()

    def lint(profile: Profile) -> object:
        return lint_profile(profile, baseline=baseline, path=str(path))

    return Target(
        path=path,
        seeds=[written(make_profile(case=PLAN.case, workload=workload_of(PLAN)))],
        mutate=changed_json,
        read=partial(find_profile, of),
        checks=[lint],
        uses=[command("lint", root / "baselines")],
    )


def published_file(root: Path) -> Target:
    """A project's published rows."""
    make_stored(root)
    (root / "page.md").write_text(PAGE)
    path = root / "baselines" / PUBLISHED_FOLDER / "h100.json"
    path.parent.mkdir()
    data = json.loads((_CATALOG / "h100.json").read_text())
    rl = [row for row in data["rows"] if row.get("rl")]
    seeds = []
    for row in (*data["rows"][:3], *rl[:2]):
        small = {**data, "rows": [row], "excluded": data.get("excluded", [])[:1]}
        seeds.append(json.dumps(small).encode())
    given = ("--baselines", root / "baselines")

    def rows_of(files: Sequence[PublishedRows]) -> str:
        return csv_text([row_of_published(row) for file in files for row in file.rows])

    return Target(
        path=path,
        seeds=seeds,
        mutate=changed_json,
        read=lambda: list(own_published(root / "baselines")),
        checks=[lambda _: lint_published(path), rows_of],
        uses=[
            command("lint", root / "baselines"),
            command("show", "--published", "h100", *given, "--where", "source=*own*"),
            command("show", "published:h100", *given, "--format", "csv"),
            command("page", "--template", root / "page.md", *given),
        ],
        period=100,
    )


CONTRACTS: Final[Mapping[str, Callable[[Path], Target]]] = MappingProxyType(
    {
        "baseline": baseline_file,
        "case": case_file,
        "plan": plan_file,
        "steps": steps_file,
        "result": result_file,
        "health": health_file,
        "yardsticks": yardsticks_file,
        "notes": note_file,
        "results": results_file,
        "release": release_file,
        "profile": profile_file,
        "published": published_file,
    }
)
"""Targets of our own JSON files by name."""
