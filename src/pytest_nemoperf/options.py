"""Command-line options and ini keys: their names and help."""

from __future__ import annotations

from typing import Final

import pytest

from pytest_nemoperf.defaults import DEFAULT_ALPHA, DEFAULT_BETA, DEFAULT_MAX_RUNS, DEFAULT_RUNS
from pytest_nemoperf.selection import PERF_TESTPATHS, asks_for_perf

DEFAULT_AB_LIMIT_SEC = 180.0
DEFAULT_AB_TOLERANCE_PCT = 5.0
STATE_DIR = ".nemoperf"
NEVER_EMPTY: Final = {
    f"--{name.replace('_', '-')}": name
    for name in (
        "perf_runs",
        "perf_max_runs",
        "perf_fail_on",
        "perf_baselines",
        "perf_output",
        "perf_reason",
        "perf_anchor",
        "perf_ab",
        "perf_replay",
    )
}
"""Options whose empty value, as of a variable that is not set, is not the same as leaving them out."""


def add_options(parser: pytest.Parser) -> None:
    """Register every option and ini key of the plugin."""
    group = parser.getgroup("nemoperf", "performance regression of LLM training and RL (with -m perf)")
    group.addoption(
        "--system",
        default="auto",
        metavar="NAME",
        help="system whose baselines count: h100, h200, b200, ..., cpu; 'auto' (default) detects it",
    )
    group.addoption(
        "--perf-runs",
        metavar="N",
        default=None,
        help=f"independent launches that make a baseline (ini perf_runs, default {DEFAULT_RUNS}); more are made where "
        "an update's tolerance asks for them",
    )
    group.addoption(
        "--perf-max-runs",
        metavar="N",
        default=None,
        help="launches a case is judged by at most: it is launched again only while it is undecided "
        f"(ini perf_max_runs, default {DEFAULT_MAX_RUNS}; error rates: ini perf_alpha, perf_beta)",
    )
    group.addoption(
        "--perf-tolerance",
        metavar="[METRIC=]PCT",
        action="append",
        default=[],
        help="allowed worsening in percent, for every judged metric or one of them, e.g. 3%% or peak_memory_gib=10%%; "
        "recipe > marker > this > ini perf_tolerance > the system's default",
    )
    group.addoption(
        "--perf-fail-on",
        metavar="VERDICTS",
        default=None,
        help="comma-separated verdicts that fail a test (ini perf_fail_on, default regressed,invalid); "
        "e.g. regressed,invalid,no_baseline,not_comparable,inconclusive; none to only report",
    )
    group.addoption(
        "--perf-timeout",
        metavar="SECONDS",
        default=None,
        help="wall-clock limit of one run, instead of each case's own",
    )
    group.addoption(
        "--perf-baselines",
        metavar="DIR",
        default=None,
        help="where baselines are stored (ini perf_baselines, default baselines/ in the root directory)",
    )
    group.addoption(
        "--perf-output",
        metavar="DIR",
        default=None,
        help=f"where results.json and results.md are written (default {STATE_DIR}/latest in the root directory)",
    )
    _add_update_options(group)
    _add_reason_options(group)
    group.addoption(
        "--perf-inject",
        metavar="PCT",
        default=None,
        help="self-test: delay each step by so many percent, e.g. 20%%; such a session is marked everywhere and never "
        "stored",
    )
    group.addoption(
        "--perf-set",
        metavar="KEY=VALUE,...",
        action="append",
        default=[],
        help="run the selected cases once under another layout or batch, e.g. tp=2,pp=4,mbs=2: cases of their own; "
        "gpus stay unless set, the data-parallel ranks follow",
    )
    group.addoption(
        "--perf-dry-run",
        action="store_true",
        help="collect, resolve, check and price the selected cases (memory, FLOPs, expected time), launch nothing; "
        "--system may be any",
    )
    _add_ini_keys(parser)


def _add_update_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--update-baselines",
        action="store_true",
        help="store this session's complete, valid runs as baselines where something moved more than its own noise, "
        "and show old -> new; regressed and inconclusive cases keep theirs without --perf-accept-regression",
    )
    group.addoption(
        "--perf-accept-regression",
        action="store_true",
        help="with --update-baselines and --perf-reason: store regressed and inconclusive cases too",
    )
    group.addoption(
        "--perf-reason",
        metavar="TEXT",
        default=None,
        help="with --update-baselines: why, kept in each file that is written",
    )
    group.addoption(
        "--perf-update-new-only",
        action="store_true",
        help="with --update-baselines: store cases that have no baseline yet, leave every other file as it is",
    )
    group.addoption(
        "--perf-prune",
        action="store_true",
        help="with --update-baselines: delete the system's stored cases that no collected perf test asks for",
    )
    group.addoption(
        "--perf-anchor",
        metavar="RELEASE",
        default=None,
        help="with --update-baselines: also keep these runs as the anchor of a release, which slow decay in steps that "
        "each pass is judged against",
    )


def _add_reason_options(group: pytest.OptionGroup) -> None:
    group.addoption(
        "--perf-ab",
        metavar="REV",
        default=None,
        help="compare with another git revision instead of baselines: both versions run alternately on this machine "
        "and their ratio is judged; what is swapped: ini perf_ab_paths, perf_ab_setup",
    )
    group.addoption(
        "--perf-ab-limit",
        metavar="SECONDS",
        default=None,
        help=f"with --perf-ab: time a case may take before it ends INCONCLUSIVE (default {DEFAULT_AB_LIMIT_SEC:.0f})",
    )
    group.addoption(
        "--perf-profile",
        action="store_true",
        help="run a failing case once more under torch.profiler and compare its operators with the stored profile; "
        "with --update-baselines: store that profile",
    )
    group.addoption(
        "--perf-replay",
        metavar="DIR",
        default=None,
        help="launch nothing: judge the runs stored in this directory again, e.g. .nemoperf/runs/20261123-101500",
    )


def _add_ini_keys(parser: pytest.Parser) -> None:
    parser.addini(
        PERF_TESTPATHS,
        "folders that -m perf collects in place of testpaths, if no path is given",
        type="args",
        default=[],
    )
    parser.addini("perf_runs", "independent launches that make a baseline", default="")
    parser.addini("perf_max_runs", "launches a perf case is judged by at most", default="")
    parser.addini("perf_alpha", f"probability to call a harmless case REGRESSED (default {DEFAULT_ALPHA})", default="")
    parser.addini(
        "perf_beta", f"probability to pass a loss as large as the tolerance (default {DEFAULT_BETA})", default=""
    )
    parser.addini("perf_tolerance", "allowed worsening: [METRIC=]PCT, one a line", type="linelist", default=[])
    parser.addini("perf_fail_on", "comma-separated verdicts that fail a perf test", default="")
    parser.addini(
        "perf_fail_on_unasked",
        "fail a session of the whole suite if stored baselines are asked for by no test (default false)",
        type="bool",
        default=False,
    )
    parser.addini(
        "perf_require_verdict",
        "fail a perf test that measured or judged nothing, and a session in which no case was judged (default false)",
        type="bool",
        default=False,
    )
    parser.addini("perf_baselines", "directory of stored baselines", default="")
    parser.addini("perf_machine", "name of a pool of identical machines that share CPU baselines", default="")
    parser.addini("perf_release", "release under test, which perf_waive(until=RELEASE) is compared with", default="")
    parser.addini(
        "perf_ab_paths",
        "--perf-ab: PYTHONPATH entries of each side, relative to its checkout",
        type="linelist",
        default=[],
    )
    parser.addini(
        "perf_ab_setup", "--perf-ab: command run once in each side's checkout before it is measured", default=""
    )


def is_perf_selected(config: pytest.Config) -> bool:
    """Tell whether ``-m`` asks for perf tests; if not, they are deselected."""
    return asks_for_perf(config.option.markexpr)


def is_perf_configured(config: pytest.Config) -> bool:
    """Tell whether an option was given that only a perf session can honour."""
    option = config.option
    if any(getattr(option, name) == "" for name in NEVER_EMPTY.values()):
        return True  # an error
    names = (
        "update_baselines",
        "perf_accept_regression",
        "perf_reason",
        "perf_update_new_only",
        "perf_prune",
        "perf_anchor",
        "perf_ab",
        "perf_ab_limit",
        "perf_profile",
        "perf_replay",
        "perf_inject",
        "perf_runs",
        "perf_max_runs",
        "perf_tolerance",
        "perf_fail_on",
        "perf_timeout",
        "perf_set",
        "perf_dry_run",
    )
    return option.system != "auto" or any(getattr(option, name) for name in names)
