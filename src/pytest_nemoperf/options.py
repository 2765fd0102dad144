"""Command-line options and ini keys: their names and help."""

from __future__ import annotations

import re

import pytest

DEFAULT_RUNS = 3
STATE_DIR = ".nemoperf"


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
        "--update-baselines",
        action="store_true",
        help="store this session's complete, valid runs as baselines and show old -> new; "
        "a regressed or inconclusive case keeps its baseline unless --perf-accept says why not",
    )
    group.addoption(
        "--perf-accept",
        metavar="REASON",
        default="",
        help="with --update-baselines: store regressed and inconclusive cases too, and keep this reason in the file",
    )
    group.addoption(
        "--perf-runs",
        metavar="N",
        default=None,
        help=f"launches per case; the verdict rests on their median (ini perf_runs, default {DEFAULT_RUNS})",
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
    parser.addini("perf_runs", "independent launches per perf case", default="")
    parser.addini("perf_tolerance", "allowed worsening: [METRIC=]PCT, one a line", type="linelist", default=[])
    parser.addini("perf_fail_on", "comma-separated verdicts that fail a perf test", default="")
    parser.addini("perf_baselines", "directory of stored baselines", default="")
    parser.addini("perf_machine", "name of a pool of identical machines that share CPU baselines", default="")


def is_perf_selected(config: pytest.Config) -> bool:
    """Tell whether ``-m`` speaks of perf; if not, perf tests are deselected."""
    return re.search(r"\bperf\b", config.option.markexpr or "") is not None


def is_perf_configured(config: pytest.Config) -> bool:
    """Tell whether an option was given that only a perf session can honour."""
    option = config.option
    given = (option.system != "auto", option.update_baselines, option.perf_accept, option.perf_inject)
    also = (option.perf_runs, option.perf_tolerance, option.perf_fail_on, option.perf_timeout)
    return any((*given, *also, option.perf_set, option.perf_dry_run))
