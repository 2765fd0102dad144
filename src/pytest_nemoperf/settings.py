"""What options, ini keys and defaults add up to for one session."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf import machine
from pytest_nemoperf.changes import parse_changes
from pytest_nemoperf.errors import NemoPerfError, did_you_mean
from pytest_nemoperf.machine import Devices
from pytest_nemoperf.metrics import JUDGED
from pytest_nemoperf.options import DEFAULT_RUNS, STATE_DIR, is_perf_selected
from pytest_nemoperf.recipe import check_tolerances
from pytest_nemoperf.systems import System, find_system
from pytest_nemoperf.verdict import FAILING_BY_DEFAULT, VerdictKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What options, ini keys and defaults add up to for one session.

    Attributes:
        system: What the machine is, or was told to be.
        devices: What a run could use here.
        was_detected: The system came from ``--system=auto``.
        baselines_dir: Stored baselines, committed with the project.
        state_dir: Local store, runs, locks and output; not committed.
        output_dir: Where the markdown table and the results file go.
        runs: Independent launches per case.
        tolerances: Allowed worsening in percent by judged metric, recipes and markers not yet applied.
        fail_on: Names of the verdicts that fail a test.
        inject_pct: Self-test delay of each step in percent.
        timeout_sec: Wall-clock limit of one run; None for each recipe's own.
        changes: What --perf-set changes in every recipe, by key; empty for nothing.
        is_dry_run: Cases are priced, nothing is launched.
        is_update: Store new baselines.
        accept_reason: Why a regression is stored in spite of itself; empty if it is not.
        machine_name: Name of a pool of identical machines; empty for this host alone.
    """

    system: System
    devices: Devices
    was_detected: bool
    baselines_dir: Path
    state_dir: Path
    output_dir: Path
    runs: int
    tolerances: Mapping[str, float]
    fail_on: frozenset[str]
    inject_pct: float
    timeout_sec: float | None
    changes: Mapping[str, Any]
    is_dry_run: bool
    is_update: bool
    accept_reason: str
    machine_name: str


def read_settings(config: pytest.Config) -> Settings:
    """Return the session's settings.

    Raises:
        pytest.UsageError: If an option or ini key can't be honoured, or the system is not this machine.
    """
    option = config.option
    inject_pct = _percent(option.perf_inject, subject="--perf-inject") if option.perf_inject is not None else 0.0
    _check_combination(config, inject_pct=inject_pct)
    try:
        devices = machine.detect_devices()
        system = _system(config, devices=devices)
        changes = parse_changes(option.perf_set, subject="--perf-set")
        tolerances = _tolerances(config, default_pct=system.tolerance_pct)
    except NemoPerfError as exc:
        raise pytest.UsageError(str(exc)) from None
    state_dir = config.rootpath / STATE_DIR
    return Settings(
        system=system,
        devices=devices,
        was_detected=option.system == "auto",
        baselines_dir=_directory(config, option.perf_baselines or config.getini("perf_baselines") or "baselines"),
        state_dir=state_dir,
        output_dir=_directory(config, option.perf_output) if option.perf_output else state_dir / "latest",
        runs=_runs(config),
        tolerances=tolerances,
        fail_on=_fail_on(config),
        inject_pct=inject_pct,
        timeout_sec=_seconds(option.perf_timeout) if option.perf_timeout is not None else None,
        changes=changes,
        is_dry_run=option.perf_dry_run,
        is_update=option.update_baselines,
        accept_reason=option.perf_accept.strip(),
        machine_name=str(config.getini("perf_machine")),
    )


def merge_tolerances(layers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return one tolerance per judged metric; later layers win, and ``all`` in a layer stands for every metric."""
    merged: dict[str, float] = {}
    for layer in layers:
        if "all" in layer:
            merged |= {metric.name: layer["all"] for metric in JUDGED}
        merged |= {name: percent for name, percent in layer.items() if name != "all"}
    return merged


def _check_combination(config: pytest.Config, *, inject_pct: float) -> None:
    option = config.option
    if option.update_baselines and not is_perf_selected(config):
        raise pytest.UsageError("--update-baselines needs perf tests to run: add -m perf")
    if option.update_baselines and inject_pct:
        raise pytest.UsageError(
            f"--perf-inject={inject_pct:g}% with --update-baselines: an injected run is never stored; drop one of them"
        )
    if option.perf_accept and not option.update_baselines:
        raise pytest.UsageError("--perf-accept only counts with --update-baselines; add it, or drop the reason")
    if option.perf_accept and not option.perf_accept.strip():
        raise pytest.UsageError("--perf-accept='' gives no reason; say why the regression is acceptable")
    _check_trials(config, inject_pct=inject_pct)
    parallel = getattr(option, "numprocesses", None) or getattr(option, "tx", None)
    if is_perf_selected(config) and parallel:
        raise pytest.UsageError(
            "-n runs tests side by side, and perf tests need the machine to themselves: drop -n, or run -m perf apart"
        )


def _check_trials(config: pytest.Config, *, inject_pct: float) -> None:
    """Check what goes with --perf-set and --perf-dry-run."""
    option = config.option
    for name, is_given in (("--perf-set", option.perf_set), ("--perf-dry-run", option.perf_dry_run)):
        if is_given and not is_perf_selected(config):
            raise pytest.UsageError(f"{name} needs perf tests to apply to: add -m perf")
    if option.perf_set and option.update_baselines:
        raise pytest.UsageError(
            "--perf-set with --update-baselines: a trial is never stored among the project's baselines, for no recipe "
            "says how to repeat it; write the layout into a recipe, or drop one of them"
        )
    if option.perf_dry_run and (option.update_baselines or inject_pct):
        other = "--update-baselines" if option.update_baselines else "--perf-inject"
        raise pytest.UsageError(f"--perf-dry-run with {other}: a dry run measures nothing; drop one of them")


def _system(config: pytest.Config, *, devices: Devices) -> System:
    """Return the system to run as; a dry run takes any, whatever this machine is."""
    name = config.option.system
    if config.option.perf_dry_run and name != "auto":
        return find_system(name)
    return machine.choose_system(name, devices=devices)


def _tolerances(config: pytest.Config, *, default_pct: float) -> dict[str, float]:
    layers: list[dict[str, float]] = [{"all": default_pct}]
    for subject, texts in (
        ("ini perf_tolerance", config.getini("perf_tolerance")),
        ("--perf-tolerance", config.option.perf_tolerance),
    ):
        layers.append(parse_tolerances(texts, subject=subject))
    return merge_tolerances(layers)


def parse_tolerances(texts: Sequence[str], *, subject: str) -> dict[str, float]:
    """Return tolerances in percent by metric name, ``all`` where no metric is named.

    Raises:
        RecipeError: If a metric is unknown or a percentage is not within (0, 100).
        pytest.UsageError: If a text is not ``[METRIC=]PCT``.
    """
    parsed = {}
    for text in texts:
        name, _, percent = text.rpartition("=")
        parsed[name.strip() or "all"] = _percent(percent, subject=subject)
    check_tolerances(parsed, subject=subject)
    return parsed


def _fail_on(config: pytest.Config) -> frozenset[str]:

    text = config.option.perf_fail_on or config.getini("perf_fail_on")
    if not text:
        return frozenset(FAILING_BY_DEFAULT)
    if text.strip().lower() == "none":
        return frozenset()
    words = {kind.value.lower().replace(" ", "_"): kind for kind in VerdictKind}
    chosen = set()
    for word in filter(None, (part.strip().lower() for part in text.split(","))):
        if word not in words:
            raise pytest.UsageError(f"--perf-fail-on: unknown verdict {word!r}; {did_you_mean(word, {*words, 'none'})}")
        chosen.add(words[word])
    return frozenset(chosen)


def _runs(config: pytest.Config) -> int:
    if config.option.perf_set and config.option.perf_runs is None:
        return 1  # a trial
    text = config.option.perf_runs if config.option.perf_runs is not None else config.getini("perf_runs")
    if text == "":
        return DEFAULT_RUNS
    if not re.fullmatch(r"\d+", text.strip()) or int(text) < 1:
        raise pytest.UsageError(f"--perf-runs={text} must be a whole number >= 1: a verdict needs at least one launch")
    return int(text)


def _percent(text: str, *, subject: str) -> float:
    try:
        percent = float(text.strip().removesuffix("%"))
    except ValueError:
        raise pytest.UsageError(f"{subject}={text!r} is not a percentage; write e.g. 5%") from None
    if not 0 < percent < float("inf"):
        raise pytest.UsageError(f"{subject}={text} must be a percentage above 0")
    return percent


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise pytest.UsageError(f"--perf-timeout={text} must be positive seconds, e.g. 600")
    return seconds


def _directory(config: pytest.Config, text: str) -> Path:
    path = Path(text)
    return path if path.is_absolute() else config.rootpath / path
