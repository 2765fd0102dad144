"""Runs that a command is given: folders that a session left, or logs of jobs that no session started."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.cli.stated import stated_commit, stated_date, stated_machine, stated_versions
from pytest_nemoperf.errors import PlanError, RecipeError, RecordError, count_text, did_you_mean, shorten
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.complete import complete_recipe
from pytest_nemoperf.frameworks.protocol import Framework, LogWriter
from pytest_nemoperf.logs.log_format import LogFormat
from pytest_nemoperf.logs.presets import PRESETS
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.recipes.case_kind import kind_of
from pytest_nemoperf.recipes.recipe import MIN_WARMUP_STEPS, Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rules import NATIVE
from pytest_nemoperf.recipes.systems import System, find_system
from pytest_nemoperf.records.provenance import LogSource, Provenance
from pytest_nemoperf.runs.logged import STEPS_FORMAT, LogFile, measure_logs
from pytest_nemoperf.runs.replay import CaseRecord, load_runs, measure_stored
from pytest_nemoperf.schema import read_contract
from pytest_nemoperf.verdict.comparison import FAILING_BY_DEFAULT, VerdictKind
from pytest_nemoperf.verdict.policy import VerdictPolicy, parse_tolerances, system_policy, with_layer, with_noise

_LOG_OPTIONS: Final = (
    "recipe",
    "log_format",
    "system",
    "warmup",
    "machine",
    "here",
    "commit",
    "version",
    "date",
    "health",
)
"""Options that only count with ``--log``: folders of runs say these things themselves."""
_TERM_OPTIONS: Final = ("tolerance", "noise", "max_runs")


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenCase:
    """Runs of one case, with all that a verdict on them needs beside a baseline.

    Attributes:
        plan: Plan of the first run.
        measurement: The numbers of the runs.
        machine: Key of the machine they ran on.
        provenance: Date, commit, versions, device, command.
        policy: Tolerances and error rates.
        fail_on: Verdicts that fail the command.
        notes: Sentences on what the numbers are.
        record: Record of the session; None for logs.
        run_dir: Folder of a session's runs; empty for logs.
        logs: Log of each run; empty for those of a session.
        words: Words of the command line that name the runs and what is stated of them.
    """

    plan: Plan
    measurement: Measurement
    machine: Mapping[str, str | int]
    provenance: Provenance
    policy: VerdictPolicy
    fail_on: frozenset[VerdictKind]
    notes: tuple[str, ...] = ()
    record: CaseRecord | None = None
    run_dir: str = ""
    logs: tuple[LogSource, ...] = ()
    words: tuple[str, ...] = ()


def add_given_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name runs, state facts that logs lack, and set the terms of a verdict."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="run folders of one case, <case>/run-<N>; or the case's folder, for all runs that its session judged",
    )
    logs = parser.add_argument_group("logs of jobs that no session started")
    logs.add_argument(
        "--log",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="in place of RUN: logs, each of a run; of TensorBoard an event file or the folder of a run's files",
    )
    logs.add_argument("--recipe", type=Path, metavar="FILE", help="what ran: recipe as JSON, as for nemoperf plan")
    logs.add_argument(
        "--log-format",
        metavar="NAME",
        help=f"format of the logs, if the recipe does not say it: {', '.join([*PRESETS, STEPS_FORMAT])}",
    )
    logs.add_argument("--system", metavar="NAME", help="system of the machine, if the recipe has several: h100, ...")
    logs.add_argument("--warmup", type=count_of, metavar="N", help="steps to drop first, instead of the recipe's")
    logs.add_argument(
        "--machine",
        action="append",
        default=[],
        metavar="[KEY=]VALUE",
        help="what a log does not say of its machine: the name of a pool of identical ones (perf_machine), or a part "
        "of the key of stored baselines, such as topology=NV18; repeatable",
    )
    logs.add_argument("--here", action="store_true", help="the jobs ran on this machine: take its key")
    logs.add_argument("--commit", metavar="HASH", help="commit of the code that ran (default: not known)")
    logs.add_argument(
        "--version", action="append", default=[], metavar="NAME=VERSION", help="what ran, e.g. torch=2.9; repeatable"
    )
    logs.add_argument(
        "--date", metavar="DATE", help="day of the jobs (default: by the first clock in each log, else its last change)"
    )
    logs.add_argument(
        "--health", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="health.json of each log"
    )
    terms = parser.add_argument_group("terms of the verdict")
    terms.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[METRIC=]PCT",
        help="allowed worsening instead of the session's or the recipe's, for all judged by default or for one metric; "
        "repeatable",
    )
    terms.add_argument(
        "--noise",
        action="append",
        default=[],
        metavar="KIND=PCT",
        help="noise that is known of the machines, as ini perf_noise: run, session or memory; repeatable",
    )
    terms.add_argument(
        "--max-runs",
        type=count_of,
        metavar="N",
        help="launches that a case is judged by at most (default: the session's; 5 for logs)",
    )


def given_case(arguments: argparse.Namespace) -> GivenCase:
    """Return the runs that the options name.

    Raises:
        NemoPerfError: If options are missing or contradict each other, or a file can't be trusted.
    """
    if arguments.log and arguments.runs:
        raise RecordError(f"RUN {arguments.runs[0]} with --log: judge folders of a session or logs, one or the other")
    if arguments.log:
        return _logged_case(arguments)
    for name in _LOG_OPTIONS:
        if getattr(arguments, name):
            raise RecordError(f"{_option(name)} only counts with --log: folders of runs say it themselves; drop it")
    if not arguments.runs:
        raise RecordError("no run is given; give folders that a session left, RUN, or logs with --log FILE")
    return _stored_case(arguments)


def count_of(text: str) -> int:
    """Return a number of runs or steps from an option's value.

    Raises:
        argparse.ArgumentTypeError: If it is no whole number above 0.
    """
    count = whole_number(text)
    if not count:
        raise argparse.ArgumentTypeError(f"{shorten(text)} must be a whole number >= 1")
    return count


def _stored_case(arguments: argparse.Namespace) -> GivenCase:
    stored = load_runs(arguments.runs)
    record = stored.record
    return GivenCase(
        plan=stored.plan,
        measurement=measure_stored(stored, framework=_framework(stored.plan)),
        machine=record.machine,
        provenance=record.provenance,
        policy=replace(_with_terms(record.terms, arguments=arguments), has_given_runs=True),
        fail_on=frozenset(record.fail_on),
        record=record,
        run_dir=os.path.commonpath(stored.run_dirs),
        words=tuple(map(str, arguments.runs)),
    )


def _framework(plan: Plan) -> Framework:
    frameworks = builtin_frameworks()
    if plan.framework not in frameworks:
        raise PlanError(
            f"framework {plan.framework!r} is registered by a pytest plugin, which alone can read its records; "
            "use pytest -m perf --perf-replay=DIR"
        )
    return frameworks[plan.framework]


def _logged_case(arguments: argparse.Namespace) -> GivenCase:
    if arguments.recipe is None:
        raise RecipeError("--recipe FILE missing: a log does not say what ran; give the recipe, as for nemoperf plan")
    recipe, log_format = _recipe(arguments)
    system = _system(recipe, named=arguments.system)
    completed = complete_recipe(recipe, framework=builtin_frameworks().get(recipe.framework), system=system)
    recipe = completed.recipe
    plan = replace(resolve(recipe, system=system), framework_config_digest=completed.digest)
    machine = stated_machine(system, num_gpus=plan.layout.total_gpus, arguments=arguments)
    commit = stated_commit(arguments.commit)
    versions = stated_versions(arguments.version)
    logged = measure_logs(plan, log_format=log_format, logs=_logs(arguments), date=stated_date(arguments.date))
    policy = with_layer(system_policy(system, kind=kind_of(logged.measurement.workload)), tolerances=recipe.tolerances)
    return GivenCase(
        plan=logged.plan,
        measurement=logged.measurement,
        machine=machine,
        provenance=Provenance(
            date=logged.date,
            git_commit=commit,
            git_dirty=None,
            versions=versions,
            device=_device(logged.plan, machine=machine),
            command=shlex.join(["nemoperf", *arguments.words]),
            source=logged.source,
        ),
        policy=replace(_with_terms(policy, arguments=arguments), has_given_runs=True),
        fail_on=FAILING_BY_DEFAULT,
        notes=logged.notes,
        logs=logged.logs,
        words=tuple(_log_words(arguments)),
    )


def _recipe(arguments: argparse.Namespace) -> tuple[Recipe, str | LogFormat]:
    """Return the recipe of the logs, with the warm-up that is asked for, and their format.

    A recipe names the format only if its framework does not: then workload and baselines are those of its sessions.
    """
    path: Path = arguments.recipe
    recipe = read_contract(Recipe, path, error=RecipeError)
    if arguments.warmup is not None:
        if arguments.warmup < MIN_WARMUP_STEPS:
            raise RecipeError(
                f"--warmup={arguments.warmup} must be >= {MIN_WARMUP_STEPS}: the first steps of a job allocate and tune"
            )
        recipe = replace(recipe, warmup_steps=arguments.warmup)
    framework = builtin_frameworks().get(recipe.framework)
    own_formats: tuple[str, ...] = ()
    if isinstance(framework, LogWriter):
        own_formats = framework.log_formats
    log_format: str | LogFormat = arguments.log_format or recipe.log_format
    if not log_format and own_formats:
        log_format = own_formats[0]
    if not log_format:
        raise RecipeError(
            f"--log-format NAME missing: {path} has no log_format; known: {', '.join(sorted([*PRESETS, STEPS_FORMAT]))}"
        )
    if arguments.log_format is not None:
        _check_format(arguments.log_format)
        is_named = log_format not in (STEPS_FORMAT, *own_formats)
        if is_named and recipe.framework == NATIVE:
            raise RecipeError(
                f"{path}: framework is {NATIVE!r}, the native engine, and --log-format={log_format} is another "
                'program\'s; name what wrote the log, e.g. "framework": "megatron"'
            )
        if not is_named:
            recipe = replace(recipe, log_format="", log_file="")
        elif log_format != recipe.log_format:  # the file is named for the recipe's own format
            recipe = replace(recipe, log_format=log_format, log_file="")
    return recipe, log_format


def _check_format(name: str) -> None:
    known = [*PRESETS, STEPS_FORMAT]
    if name not in known:
        raise RecipeError(
            f"unknown --log-format={name}; {did_you_mean(name, known)}; a format of your own belongs into the recipe, "
            "as log_format"
        )


def _system(recipe: Recipe, *, named: str | None) -> System:
    if named is not None:
        return find_system(named)
    systems = sorted({*recipe.layouts, *recipe.gpus})
    if not systems:
        raise RecipeError("--system NAME missing: the recipe names none; say where the jobs ran, e.g. --system h100")
    if len(systems) != 1:
        raise RecipeError(f"--system NAME missing: the recipe has layouts for {', '.join(systems)}; say which ran")
    return find_system(systems[0])


def _device(plan: Plan, *, machine: Mapping[str, str | int]) -> str:
    """Return the devices of the job, as the provenance of a session has them; empty if they are not known."""
    if plan.device == "cpu":
        return str(machine.get("cpu", ""))
    return f"{plan.layout.total_gpus}x {machine['device']}"


def _logs(arguments: argparse.Namespace) -> list[LogFile]:
    paths: Sequence[Path] = arguments.log
    reports: Sequence[Path | None] = arguments.health or [None] * len(paths)
    if len(reports) != len(paths):
        raise RecordError(
            f"--health names {count_text(len(reports), 'report')} and --log {count_text(len(paths), 'log')}; "
            "give one for each log, in their order"
        )
    return [LogFile(path=path, health=health) for path, health in zip(paths, reports, strict=True)]


def _with_terms(policy: VerdictPolicy, *, arguments: argparse.Namespace) -> VerdictPolicy:
    layered = with_layer(policy, tolerances=parse_tolerances(arguments.tolerance, subject="--tolerance"))
    layered = with_noise(layered, texts=arguments.noise, subject="--noise")
    return replace(layered, max_runs=arguments.max_runs or policy.max_runs)


def _log_words(arguments: argparse.Namespace) -> list[str]:
    """Return the words of the logs, of stated facts and of terms, for another command on the same logs."""
    words = ["--log", *map(str, arguments.log)]
    for name in (*_LOG_OPTIONS, *_TERM_OPTIONS):
        value = getattr(arguments, name)
        if value is True:
            words.append(_option(name))
        elif isinstance(value, list):
            for each in value:
                words += [_option(name), str(each)]
        elif value is not None and value is not False:
            words += [_option(name), str(value)]
    return words


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
