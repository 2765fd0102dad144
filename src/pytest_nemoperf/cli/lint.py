"""``nemoperf lint``: checks of stored baselines for the CI of a pull request; nothing is measured."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import read_baseline
from pytest_nemoperf.baselines.profile_store import PROFILES_DIR, find_profile
from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.cli.terminal import write, write_command
from pytest_nemoperf.errors import BaselineError, LintError, NemoPerfError, RecipeError, count_text, shorten
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.lint.findings import Finding, LooseTolerance, lint_baseline, lint_loose, lint_profile, lint_suite
from pytest_nemoperf.lint.other_files import lint_published, lint_release
from pytest_nemoperf.machine.github import is_github, repository_path
from pytest_nemoperf.pages.releases import NO_SYSTEMS, PUBLISHED_FOLDER, RELEASES_FOLDER, stored_systems
from pytest_nemoperf.recipes.case_kind import kind_of
from pytest_nemoperf.recipes.systems import System, find_system
from pytest_nemoperf.report.ci.github import Annotation, AnnotationLevel, render_annotation, shown_annotations
from pytest_nemoperf.results.dry_run import DRY_RUN_FILE, DryRun
from pytest_nemoperf.verdict.policy import (
    VerdictPolicy,
    of_kind,
    parse_tolerances,
    system_policy,
    with_layer,
    with_noise,
)

_MAX_AGE_DAYS = 180
_TAIL_LINES = 15
_EPILOG = """\
examples:
  nemoperf lint
  nemoperf lint --tests perf_tests --strict baselines/
  nemoperf lint --tolerance 3 --tolerance peak_memory_gib=10 --max-age 90

exit code:
  0 if nothing is wrong; warnings are not, unless --strict
  1 if something is
  2 if an option is wrong, there is no such folder, or the tests can't be collected
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument("folder", type=Path, nargs="?", default=Path("baselines"), help="default: baselines")
    parser.add_argument(
        "--tests",
        action="append",
        default=[],
        metavar="PATH",
        help="collect the perf tests there: say which files none asks for and which cases have none; may be repeated",
    )
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[METRIC=]PCT",
        help="allowed worsening where --tests does not tell (default: the system's)",
    )
    parser.add_argument(
        "--max-age",
        type=_days,
        default=_MAX_AGE_DAYS,
        metavar="DAYS",
        help=f"older is stale (default: {_MAX_AGE_DAYS})",
    )
    parser.add_argument("--strict", action="store_true", help="warnings fail too")
    parser.add_argument("--github", action="store_true", help="print GitHub's annotations (default where it runs)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings on the baselines of a folder; return the exit code.

    Raises:
        NemoPerfError: If there is no such folder, or the tests can't be collected.
    """
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise BaselineError(f"{folder}: no such folder; give the one that holds <system>/<case>.json")
    tolerances = parse_tolerances(arguments.tolerance, subject="--tolerance")
    dry_runs = _dry_runs(arguments.tests, folder=folder)
    linter = _Linter(
        folder, tolerances=tolerances, dry_runs=dry_runs, max_age_days=arguments.max_age, today=datetime.now(UTC).date()
    )
    findings = linter.findings()
    counts: Counter[str] = Counter([finding.level for finding in findings])
    if arguments.json:
        write(_json_text(findings, counts=counts, num_files=len(linter.files)))
    else:
        write(_text(findings, counts=counts, num_files=len(linter.files)))
    if arguments.github or is_github():
        for annotation in shown_annotations(list(map(_annotation, findings))):
            write_command(render_annotation(annotation))
    is_failure = counts["error"] > 0 or (arguments.strict and counts["warning"] > 0)
    return int(is_failure)


class _Linter:
    """Reader of a folder of baselines that collects findings.

    Args:
        folder: Holds ``<system>/<case>.json``.
        tolerances: Values of --tolerance, by metric.
        dry_runs: Dry runs of the perf tests, by system; empty without --tests.
        max_age_days: Older baselines are stale.
        today: The day, UTC.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tolerances: Mapping[str, float],
        dry_runs: Mapping[str, DryRun],
        max_age_days: int,
        today: date,
    ) -> None:
        # the folder of published rows may be a link, which rglob does not follow
        self.files = sorted({*folder.rglob("*.json"), *(folder / PUBLISHED_FOLDER).glob("*.json")})
        self._folder = folder
        self._tolerances = tolerances
        self._dry_runs = dry_runs
        self._max_age_days = max_age_days
        self._today = today
        self._baselines: dict[Path, Baseline] = {}
        self._loose: dict[str, list[LooseTolerance]] = {}

    def findings(self) -> list[Finding]:
        """Return all findings: on baselines, other files, loose tolerances, then on the test suite."""
        findings: list[Finding] = []
        others = []
        for path in self.files:
            if path.parent.parent == self._folder and path.parent.name not in NO_SYSTEMS:
                findings += self._of_baseline(path)
            else:
                others.append(path)
        for path in others:
            if path.parent == self._folder / RELEASES_FOLDER:
                findings += lint_release(path)
            elif path.parent == self._folder / PUBLISHED_FOLDER:
                findings += lint_published(path)
            else:
                findings += self._of_other(path)
        for system, loose in self._loose.items():
            findings += lint_loose(loose, folder=str(self._folder / system))
        for number, (system, dry_run) in enumerate(self._dry_runs.items()):
            findings += self._of_suite(dry_run, folder=self._folder / system)
            if number == 0:  # all dry runs are of the same recipes
                findings += self._missing_systems(dry_run)
        if not findings and not self._baselines:
            checked = "only releases and published rows were" if self.files else "nothing was"
            findings.append(
                self._no_baselines(
                    f"no baseline is in it, so {checked} checked; give the folder that holds <system>/<case>.json"
                )
            )
        return findings

    def _no_baselines(self, message: str) -> Finding:
        return Finding(path=str(self._folder), level="warning", rule="no baselines", message=message)

    def _of_baseline(self, path: Path) -> list[Finding]:
        try:
            baseline = read_baseline(path)
        except BaselineError as exc:
            return [_error(path, "file", str(exc).removeprefix(f"{path}: "))]
        self._baselines[path] = baseline
        try:
            system = find_system(baseline.system)
        except RecipeError as exc:
            return [_error(path, "system", f"$.system: {exc}")]
        findings, loose = lint_baseline(
            baseline,
            path=str(path),
            policy=self._policy(system, baseline=baseline),
            today=self._today,
            max_age_days=self._max_age_days,
        )
        self._loose.setdefault(system.name, []).extend(loose)
        return findings

    def _of_other(self, path: Path) -> list[Finding]:
        parts = path.relative_to(self._folder).parts
        if len(parts) != 3 or parts[1] != PROFILES_DIR:  # noqa: PLR2004 (system, folder and case)
            return [_error(path, "place", f"is not <system>/<case>.json under {self._folder}; move or delete it")]
        baseline_path = path.parent.parent / path.name
        if not baseline_path.exists():
            return [_error(path, "profile", f"has no baseline {baseline_path}; delete it")]
        try:
            profile = find_profile(baseline_path)
        except NemoPerfError as exc:
            return [_error(path, "profile", str(exc).removeprefix(f"{path}: "))]
        baseline = self._baselines.get(baseline_path)
        if profile is None or baseline is None:
            return []
        return lint_profile(profile, baseline=baseline, path=str(path))

    def _of_suite(self, dry_run: DryRun, *, folder: Path) -> list[Finding]:
        if not folder.is_dir():  # the tests were collected only for the systems of their recipes
            return []
        paths = {}
        for path in self.files:
            if path.parent == folder:
                paths[path.stem] = str(path)
        return lint_suite(dry_run, paths=paths, folder=str(folder))

    def _missing_systems(self, dry_run: DryRun) -> list[Finding]:
        missing = [name for name in dry_run.systems if not (self._folder / name).is_dir()]
        if not missing:
            return []
        return [self._no_baselines(f"recipes have layouts for {', '.join(missing)}, and nothing is stored there")]

    def _policy(self, system: System, *, baseline: Baseline) -> VerdictPolicy:
        kind = kind_of(baseline.workload)
        dry_run = self._dry_runs.get(system.name)
        if dry_run is None or dry_run.terms is None:
            return with_layer(system_policy(system, kind=kind), tolerances=self._tolerances)
        terms = of_kind(dry_run.terms, system=system, kind=kind)
        terms = with_noise(terms, texts=dry_run.noise, subject="ini perf_noise")
        for each in dry_run.asked:
            if each.case == baseline.case:
                return replace(terms, tolerances=each.tolerances, finds=each.finds)
        return terms


def _dry_runs(tests: Sequence[str], *, folder: Path) -> dict[str, DryRun]:
    """Return a dry run of the tests per system; on the CPU, if no system has baselines.

    Args:
        tests: Paths of --tests; without any there is no dry run.
        folder: Holds ``<system>/<case>.json``.
    """
    if not tests:
        return {}
    known = []
    for name in stored_systems(folder):
        try:
            known.append(find_system(name).name)
        except RecipeError:
            continue  # a finding of each of its files
    dry_runs = {}
    for name in known or ["cpu"]:
        dry_runs[name] = _dry_run(tests, system=name)
    return dry_runs


def _dry_run(tests: Sequence[str], *, system: str) -> DryRun:
    """Return pytest's dry run of the tests on a system.

    Raises:
        LintError: If they can't be collected, or the plan of one is impossible.
    """
    with tempfile.TemporaryDirectory(prefix="nemoperf-lint-") as folder:
        command = [sys.executable, "-m", "pytest", "-m", "perf", f"--system={system}", "--perf-dry-run", "-q"]
        command += ["-p", "no:cacheprovider", f"--perf-output={folder}", f"--perf-baselines={folder}", *tests]
        done = subprocess.run(command, capture_output=True, text=True, errors="surrogateescape", check=False)  # noqa: S603 (our own interpreter)
        path = Path(folder) / DRY_RUN_FILE
        if done.returncode == 0 and path.exists():
            return read_data(DryRun, path, error=LintError)
    tail = "\n".join([*done.stdout.splitlines(), *done.stderr.splitlines()][-_TAIL_LINES:])
    outcome = "found no perf test" if done.returncode in {0, 5} else f"ended with {done.returncode}"
    raise LintError(f"--tests {' '.join(tests)}: a dry run on {system} {outcome}; mend that first:\n{tail}")


def _days(text: str) -> int:
    days = whole_number(text)
    if days is None:
        raise argparse.ArgumentTypeError(f"{shorten(text)} must be a whole number of days >= 0")
    return days


def _text(findings: Sequence[Finding], *, counts: Mapping[str, int], num_files: int) -> str:
    """Return one line per finding below its file, and the counts."""
    if not findings:
        return f"{count_text(num_files, 'file')} ok\n"
    lines_of: dict[str, list[str]] = {}
    for finding in findings:
        lines_of.setdefault(finding.path, [finding.path]).append(f"  {finding.level}: {finding.message}")
    words = []
    for level in ("error", "warning"):
        if counts[level]:
            words.append(count_text(counts[level], level))
    lines = list(chain.from_iterable(lines_of.values()))
    return "\n".join([*lines, "", f"{' and '.join(words)} in {count_text(num_files, 'file')}", ""])


def _json_text(findings: Sequence[Finding], *, counts: Mapping[str, int], num_files: int) -> str:
    report: dict[str, Any] = {
        "num_files": num_files,
        "num_errors": counts["error"],
        "num_warnings": counts["warning"],
        "findings": [json.loads(to_json(finding)) for finding in findings],
    }
    return json.dumps(report, indent=2) + "\n"


def _annotation(finding: Finding) -> Annotation:
    path = repository_path(Path(finding.path))
    return Annotation(
        level=AnnotationLevel(finding.level), title=f"nemoperf lint: {finding.rule}", message=finding.message, file=path
    )


def _error(path: Path, rule: str, message: str) -> Finding:
    return Finding(path=str(path), level="error", rule=rule, message=message)
