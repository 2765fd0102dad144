"""Settings of one session, from options, ini keys and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, cast, get_args

import pytest

from pytest_nemoperf.baselines.store import DEFAULT_FOLDER
from pytest_nemoperf.errors import NemoPerfError, did_you_mean, os_error_text
from pytest_nemoperf.machine import identity
from pytest_nemoperf.machine.identity import Devices
from pytest_nemoperf.options import declare
from pytest_nemoperf.options.checks import check_combination
from pytest_nemoperf.options.parse import (
    parse_count,
    parse_fail_on,
    parse_frameworks,
    parse_on_off,
    parse_percent,
    parse_probability,
    parse_pythons,
    parse_seconds,
)
from pytest_nemoperf.options.usage import usage_error
from pytest_nemoperf.recipes.case_kind import CaseKind
from pytest_nemoperf.recipes.overrides import parse_changes
from pytest_nemoperf.recipes.systems import System, find_system
from pytest_nemoperf.records.yardstick import YARDSTICK_VARIABLE
from pytest_nemoperf.runs.replay import CASE_FILE, find_cases
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.defaults import DEFAULT_RUNS
from pytest_nemoperf.verdict.policy import (
    VerdictPolicy,
    check_one_of_each,
    of_kind,
    parse_tolerances,
    system_policy,
    with_layer,
    with_noise,
)
from pytest_nemoperf.verdict.updates import UpdateOptions

MEASURE_INTO: Final = pytest.StashKey[Path]()
"""Folder of a session that measures a test for another one; set by ``plugin/measure_only.py``."""
_NOISE_KEY: Final = "ini perf_noise"


@dataclass(frozen=True, slots=True, kw_only=True)
class ABOptions:
    """Values of ``--perf-ab`` and its ini keys.

    Attributes:
        revision: Git revision of the other side.
        limit_sec: Time a case may take.
        is_self_test: Two sides of the same files are wanted: ``--perf-inject`` is given.
    """

    revision: str
    limit_sec: float
    is_self_test: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOptions:
    """Parts of a project that differ between the two sides of a comparison.

    Attributes:
        paths: PYTHONPATH entries of each side, relative to its checkout; empty for the usual ones.
        setup: Command run once in each checkout; empty for none.
    """

    paths: tuple[str, ...]
    setup: str


Against = Literal["baselines", "published"]
"""Values of ``--perf-against``; the first is the one without it."""
ConfirmMode = Literal["auto", "always", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmOptions:
    """Values of ``--perf-confirm`` and the options that go with it.

    Attributes:
        mode: Compare suspects with their baseline's commit where that is possible, every case, or none.
        limit_sec: Time a case may take.
        fails_on_machine: A loss of the very code, environment and recipe of the baseline fails: the machine is guarded.
    """

    mode: ConfirmMode
    limit_sec: float
    fails_on_machine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Values of options, ini keys and defaults for one session.

    Attributes:
        system: System of this machine, detected or given by ``--system``.
        devices: Devices of this machine that a run can use.
        was_detected: The system came from ``--system=auto``.
        baselines_dir: Folder of the baselines committed with the project.
        state_dir: Folder of the local store, runs, locks and output; not committed.
        output_dir: Folder of the markdown table and the results file.
        runs: Independent launches that make a baseline.
        budget_sec: Time that the steps of a case's launches should take together; None for any.
        policy: Tolerances and error rates; neither the noise of a case's kind (policy_of) nor the tolerances of recipes
            and markers are applied yet.
        noise: Noise that the project knows of its machines, ``KIND=PCT``, in place of the catalog's.
        fail_on: Names of the verdicts that fail a test.
        fails_on_unasked: The session fails if cases have no baseline and no test asks for some of the stored ones.
        needs_verdict: A perf test that judged nothing fails.
        inject_pct: Self-test delay of each step in percent.
        timeout_sec: Wall-clock limit of one run; None for each recipe's own.
        has_yardstick: A fixed workload is timed before and after each run.
        checkpoint_dir: Folder for checkpoints of cases that time one; empty if none is given.
        changes: Values of ``--perf-set``, for every recipe, by key; empty if there are none.
        frameworks: Names of ``--perf-framework``, each of which runs every recipe; empty for the recipe's own.
        is_dry_run: Cases are priced, nothing is launched.
        updating: Options of ``--update-baselines``; None if committed baselines are not written.
        ab: Options of ``--perf-ab``; None to judge against baselines.
        against: Figures that cases are judged by: stored baselines, or the rows of published pages.
        sides: Parts of the project that differ between the two sides of a comparison.
        confirm: Options of ``--perf-confirm``.
        is_profiled: A failing case runs once more under the profiler.
        replay_dir: Stored runs to judge instead of launching; None to launch.
        release: Release under test, for waivers; empty if not given.
        machine_name: Name of a pool of identical machines; empty for this host alone.
        pythons: Interpreter of a framework's commands by its name; ``*`` for those of any other.
        measure_into: Folder for the measurements of the test process, which another session judges: this one judges and
            stores nothing, launches no recipe, and takes no lock of the host, which that session holds. None for an
            ordinary session.
    """

    system: System
    devices: Devices
    was_detected: bool
    baselines_dir: Path
    state_dir: Path
    output_dir: Path
    runs: int
    budget_sec: float | None
    policy: VerdictPolicy
    noise: tuple[str, ...]
    fail_on: frozenset[VerdictKind]
    fails_on_unasked: bool
    needs_verdict: bool
    inject_pct: float
    timeout_sec: float | None
    has_yardstick: bool
    checkpoint_dir: str
    changes: Mapping[str, Any]
    frameworks: tuple[str, ...]
    is_dry_run: bool
    updating: UpdateOptions | None
    ab: ABOptions | None
    against: Against
    sides: SideOptions
    confirm: ConfirmOptions
    is_profiled: bool
    replay_dir: Path | None
    release: str
    machine_name: str
    pythons: Mapping[str, str]
    measure_into: Path | None

    def policy_of(self, kind: CaseKind) -> VerdictPolicy:
        """Return the policy with the noise of a kind of case: the project's own figures, else the catalog's."""
        return with_noise(of_kind(self.policy, system=self.system, kind=kind), texts=self.noise, subject=_NOISE_KEY)


def read_settings(config: pytest.Config) -> Settings:
    """Return the session's settings.

    Raises:
        pytest.UsageError: If an option or ini key can't be honoured, or the system is not this machine.
    """
    option = config.option
    check_combination(config)
    inject_pct = _inject_pct(config)
    against = _against(config)
    replay_dir = _replay_dir(config)
    try:
        devices = identity.detect_devices()
        system = _system(config, devices=devices, replay_dir=replay_dir)
        changes = parse_changes(option.perf_set, subject="--perf-set")
        noise = tuple(config.getini("perf_noise"))
        policy = _policy(config, system=system, noise=noise)
    except NemoPerfError as exc:
        raise usage_error(str(exc)) from None
    state_dir = config.rootpath / declare.STATE_DIR
    output_dir = state_dir / "latest"
    if option.perf_output:
        output_dir = _output_dir(config)
    timeout_sec: float | None = None
    if option.perf_timeout is not None:
        timeout_sec = parse_seconds(option.perf_timeout, subject="--perf-timeout")
    measure_into = config.stash.get(MEASURE_INTO, None)
    return Settings(
        system=system,
        devices=devices,
        was_detected=option.system == "auto",
        baselines_dir=_baselines_dir(config) if measure_into is None else state_dir,
        state_dir=state_dir,
        output_dir=output_dir,
        runs=_num_runs(config),
        budget_sec=_budget_sec(config, system=system),
        policy=policy,
        noise=noise,
        fail_on=parse_fail_on(option.perf_fail_on or config.getini("perf_fail_on")),
        fails_on_unasked=config.getini("perf_fail_on_unasked"),
        needs_verdict=config.getini("perf_require_verdict") and measure_into is None,
        inject_pct=inject_pct,
        timeout_sec=timeout_sec,
        has_yardstick=_has_yardstick(config),
        checkpoint_dir=_checkpoint_dir(config),
        changes=changes,
        frameworks=_frameworks(config),
        is_dry_run=option.perf_dry_run,
        updating=_updating(config),
        ab=_ab(config),
        against=against,
        sides=SideOptions(
            paths=tuple(config.getini("perf_ab_paths")),
            setup=str(config.getini("perf_ab_setup")),
        ),
        confirm=_confirm(config, system=system),
        is_profiled=option.perf_profile,
        replay_dir=replay_dir,
        release=str(config.getini("perf_release")),
        machine_name=str(config.getini("perf_machine")),
        pythons=parse_pythons(config.getini("perf_python"), subject="ini perf_python"),
        measure_into=measure_into,
    )


def _updating(config: pytest.Config) -> UpdateOptions | None:
    option = config.option
    if not option.update_baselines:
        return None
    return UpdateOptions(
        is_accepted=option.perf_accept_regression,
        reason=(option.perf_reason or "").strip(),
        is_new_only=option.perf_update_new_only,
        is_pruning=option.perf_prune,
        anchor=(option.perf_anchor or "").strip(),
        adds_session=option.perf_add_session,
    )


def _ab(config: pytest.Config) -> ABOptions | None:
    option = config.option
    if option.perf_ab is None:
        return None
    limit_sec = declare.DEFAULT_AB_LIMIT_SEC
    if option.perf_ab_limit is not None:
        limit_sec = parse_seconds(option.perf_ab_limit, subject="--perf-ab-limit")
    return ABOptions(
        revision=option.perf_ab,
        limit_sec=limit_sec,
        is_self_test=option.perf_inject is not None,
    )


def _against(config: pytest.Config) -> Against:
    text: str | None = config.option.perf_against
    if text is None:
        return "baselines"
    if text.strip().lower() != "published":
        raise usage_error(f"--perf-against={text}: {did_you_mean(text, ['published'])}")
    return "published"


def _frameworks(config: pytest.Config) -> tuple[str, ...]:
    text: str | None = config.option.perf_framework
    if text is None:
        return ()
    return parse_frameworks(text, subject="--perf-framework")


def _confirm(config: pytest.Config, *, system: System) -> ConfirmOptions:
    text, subject = _option_or_ini(config, "perf_confirm")
    mode = text.strip().lower() or "auto"
    if mode not in get_args(ConfirmMode):
        raise usage_error(f"{subject}={text!r}: {did_you_mean(mode, get_args(ConfirmMode))}")
    limit_sec = declare.DEFAULT_CONFIRM_LIMIT_SEC[system.device]
    text, subject = _option_or_ini(config, "perf_confirm_limit")
    if text:
        limit_sec = parse_seconds(text, subject=subject)
    return ConfirmOptions(
        mode=cast("ConfirmMode", mode),
        limit_sec=limit_sec,
        fails_on_machine=config.getini("perf_fail_on_machine"),
    )


def _inject_pct(config: pytest.Config) -> float:
    """Return the delay of a self-test in percent; with ``--perf-ab``, 0% is the self-test of equal sides."""
    text: str | None = config.option.perf_inject
    if text is None:
        return 0.0
    if config.option.perf_ab is not None and text.strip().removesuffix("%") == "0":
        return 0.0
    return parse_percent(text, subject="--perf-inject")


def _replay_dir(config: pytest.Config) -> Path | None:
    text: str | None = config.option.perf_replay
    if text is None:
        return None
    path = _looked_up(config.invocation_params.dir / text, named=f"--perf-replay={text}")
    if not any(path.glob(f"*/{CASE_FILE}")):
        raise usage_error(
            f"--perf-replay={text}: holds no <case>/{CASE_FILE}; give a session's folder, as .nemoperf/runs/<session>"
        )
    return path


def _system(config: pytest.Config, *, devices: Devices, replay_dir: Path | None) -> System:
    """Return the system to run as: this machine's, but a dry run takes any and a replay that of its runs."""
    name = config.option.system
    if replay_dir is not None and name == "auto":
        systems = {record.system for record in find_cases(replay_dir)}
        if len(systems) > 1:
            names = " and ".join(sorted(systems))
            raise usage_error(f"{replay_dir}: holds runs of {names}; choose one with --system")
        return find_system(systems.pop())
    if (replay_dir is not None or config.option.perf_dry_run) and name != "auto":
        return find_system(name)
    return identity.choose_system(name, devices=devices)


def _policy(config: pytest.Config, *, system: System, noise: Sequence[str]) -> VerdictPolicy:
    policy = with_noise(system_policy(system), texts=noise, subject=_NOISE_KEY)
    if config.option.perf_ab:  # differences between days and launches cancel, so smaller changes can be found
        tolerances = {}
        for name, percent in policy.tolerances.items():
            tolerances[name] = min(percent, declare.DEFAULT_AB_TOLERANCE_PCT)
        policy = replace(policy, tolerances=tolerances)
    if text := config.getini("perf_alpha"):
        policy = replace(policy, alpha=parse_probability(text, subject="ini perf_alpha"))
    if text := config.getini("perf_beta"):
        policy = replace(policy, beta=parse_probability(text, subject="ini perf_beta"))
    text, subject = _option_or_ini(config, "perf_max_runs")
    if text:
        policy = replace(policy, max_runs=parse_count(text, subject=subject))
    option = config.option
    if option.perf_replay:
        policy = replace(policy, has_given_runs=True)
    layers = (
        ("ini ", "_", config.getini("perf_tolerance"), config.getini("perf_find")),
        ("--", "-", option.perf_tolerance, option.perf_find),
    )
    for prefix, joint, tolerances_given, finds_given in layers:
        tolerance_name = f"{prefix}perf{joint}tolerance"
        find_name = f"{prefix}perf{joint}find"
        tolerances = parse_tolerances(tolerances_given, subject=tolerance_name)
        finds = parse_tolerances(finds_given, subject=find_name)
        check_one_of_each(tolerances, finds=finds, subject=f"{tolerance_name} and {find_name}")
        policy = with_layer(policy, tolerances=tolerances, finds=finds)
    return policy


def _num_runs(config: pytest.Config) -> int:
    if config.option.perf_set and config.option.perf_runs is None:
        return 1  # a trial, which stores no committed baseline
    text, subject = _option_or_ini(config, "perf_runs")
    if text:
        return parse_count(text, subject=subject)
    return DEFAULT_RUNS


def _budget_sec(config: pytest.Config, *, system: System) -> float | None:
    """Return the time budget of a case's launches; none if the command line says how many there are."""
    text = str(config.getini("perf_budget")).strip()
    if text == "0" or config.option.perf_runs is not None:
        return None
    if not text:
        return system.budget_sec
    return parse_seconds(text, subject="ini perf_budget")


def _has_yardstick(config: pytest.Config) -> bool:
    """Return whether runs have a yardstick: by the option, else the ini key, else the variable that ranks read."""
    text, subject = _option_or_ini(config, "perf_yardstick")
    if not text:
        text = os.environ.get(YARDSTICK_VARIABLE, "")
        subject = YARDSTICK_VARIABLE
    if not text:
        return True
    return parse_on_off(text, subject=subject)


def _option_or_ini(config: pytest.Config, name: str) -> tuple[str, str]:
    """Return the text of an option, or else of its ini key, and the name of the one that has it; empty for neither."""
    given = getattr(config.option, name)
    if given is None:
        return str(config.getini(name)), f"ini {name}"
    return str(given), f"--{name.replace('_', '-')}"


def _baselines_dir(config: pytest.Config) -> Path:
    """Return the folder of baselines.

    Raises:
        pytest.UsageError: If it is none, or can't be read, or is named but not there and nothing is to be stored in it:
            every case would be without a baseline, and pass.
    """
    text, subject = _option_or_ini(config, "perf_baselines")
    named = f"the folder of baselines {DEFAULT_FOLDER}"
    if text:
        named = f"{subject}={text}"
    path = _looked_up(config.rootpath / (text or DEFAULT_FOLDER), named=named)
    if path.exists() and not path.is_dir():
        raise usage_error(f"{named}: {path} is a file; give the folder that holds <system>/<case>.json")
    if path.exists() and not os.access(path, os.R_OK | os.X_OK):
        raise usage_error(f"{named}: {path} can't be read; give it to this user, or name another folder")
    if text and not path.exists() and not config.option.update_baselines:
        hint = "; record baselines with --update-baselines, or name the folder that holds <system>/<case>.json"
        for place in (config.invocation_params.dir, *config.rootpath.parents):
            if (place / text).is_dir():
                hint = f", the root directory of this session; did you mean {place / text}?"
                break
        raise usage_error(f"{named}: there is no folder {text} in {config.rootpath}{hint}")
    return path


def _checkpoint_dir(config: pytest.Config) -> str:
    """Return the path of the folder for checkpoints, there or not; empty if none is given.

    An option's is relative to the folder that pytest was called in, an ini key's to the root directory.
    """
    text, subject = _option_or_ini(config, "perf_checkpoint_dir")
    if not text.strip():
        return ""
    base = config.rootpath if subject.startswith("ini") else config.invocation_params.dir
    return str(_looked_up(base / text, named=f"{subject}={text}"))


def _output_dir(config: pytest.Config) -> Path:
    """Return the folder of the reports.

    Raises:
        pytest.UsageError: If there is something else of that name.
    """
    path = _looked_up(config.rootpath / config.option.perf_output, named=f"--perf-output={config.option.perf_output}")
    if path.exists() and not path.is_dir():
        raise usage_error(f"--perf-output={config.option.perf_output}: {path} is a file; give a folder")
    return path


def _looked_up(path: Path, *, named: str) -> Path:
    """Return the path of a folder, there or not.

    Raises:
        pytest.UsageError: If the system can't look it up: its name is too long, or it is in a closed folder.
    """
    try:
        path.exists()
    except OSError as exc:
        raise usage_error(f"{named}: {os_error_text(exc)}") from None
    return path
