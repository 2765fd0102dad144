"""Command-line options and ini keys: one table of each, for the parser, ``--help`` and the checks of a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import pytest

from pytest_nemoperf.options.selection import PERF_TESTPATHS, asks_for_perf
from pytest_nemoperf.verdict.defaults import DEFAULT_ALPHA, DEFAULT_BETA, DEFAULT_MAX_RUNS, DEFAULT_RUNS

DEFAULT_AB_LIMIT_SEC: Final = 180.0
DEFAULT_AB_TOLERANCE_PCT: Final = 3.0
DEFAULT_CONFIRM_LIMIT_SEC: Final[Mapping[str, float]] = {"cpu": 90.0, "cuda": 600.0}
STATE_DIR: Final = ".nemoperf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A command-line option.

    Attributes:
        name: As it is typed.
        help: Text of ``--help``.
        metavar: Its value in ``--help``; empty for a flag.
        default: Value of an option with one that is not given.
        is_repeatable: It may be given several times, and its values add up.
        needs: Option without which it has no effect; empty for none.
        needs_tests: It is an error without ``-m perf``.
        is_harmless: Without ``-m perf`` it is not even checked, so that a project can have it in addopts.
    """

    name: str
    help: str
    metavar: str = ""
    default: str | None = None
    is_repeatable: bool = False
    needs: str = ""
    needs_tests: bool = False
    is_harmless: bool = False

    @property
    def dest(self) -> str:
        """Attribute of ``config.option`` that has its value."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def initial(self) -> str | bool | list[str] | None:
        """Value of the option if it is not given."""
        if self.is_repeatable:
            return []
        return self.default if self.metavar else False

    def add_to(self, group: pytest.OptionGroup) -> None:
        """Register the option."""
        if self.is_repeatable:
            group.addoption(self.name, metavar=self.metavar, action="append", default=self.initial, help=self.help)
        elif self.metavar:
            group.addoption(self.name, metavar=self.metavar, default=self.initial, help=self.help)
        else:
            group.addoption(self.name, action="store_true", help=self.help)

    def is_given(self, config: pytest.Config) -> bool:
        """Return whether the command line, or addopts, has the option."""
        value = getattr(config.option, self.dest)
        return value not in (False, [], self.default)

    def is_empty(self, config: pytest.Config) -> bool:
        """Return whether its value is empty, as of a variable that is not set."""
        value = getattr(config.option, self.dest)
        return isinstance(value, str) and not value.strip()


OPTIONS: Final = (
    Option(
        name="--system",
        metavar="NAME",
        default="auto",
        help="system whose baselines count: h100, h200, b200, ..., cpu; 'auto' (default) detects it",
    ),
    Option(
        name="--perf-runs",
        metavar="N",
        help=f"independent launches that make a baseline (ini perf_runs, default {DEFAULT_RUNS}); an update makes more "
        "where so few find too little beyond the tolerance",
    ),
    Option(
        name="--perf-max-runs",
        metavar="N",
        help="launches a case is judged by at most: it is launched again only while it is undecided "
        f"(ini perf_max_runs, default {DEFAULT_MAX_RUNS}; error rates: ini perf_alpha, perf_beta)",
    ),
    Option(
        name="--perf-tolerance",
        metavar="[METRIC=]PCT",
        is_repeatable=True,
        help="allowed worsening in percent, for every metric that is judged by default or for one metric, e.g. 3%% or "
        "peak_memory_gib=10%%; generation and training rates of reinforcement learning follow tokens/sec/GPU, and "
        "phases such as refit_time_sec, energy (joules_per_token) and metrics on request (checkpoint_save_sec) are "
        "judged only if named here; "
        "recipe > marker > this > ini perf_tolerance > the system's default (3%% on GPUs and side by side, 10%% on "
        "cpu)",
    ),
    Option(
        name="--perf-find",
        metavar="[METRIC=]PCT",
        is_repeatable=True,
        help="worsening that must be found, in percent, instead of a tolerance: a case then allows what its noise "
        "leaves below it, or says what would do; marker > this > ini perf_find, and a tolerance of a stronger place "
        "takes it back",
    ),
    Option(
        name="--perf-fail-on",
        metavar="VERDICTS",
        help="comma-separated verdicts that fail a test (ini perf_fail_on, default regressed,invalid); "
        "e.g. regressed,invalid,no_baseline,not_comparable,inconclusive; none to only report",
    ),
    Option(
        name="--perf-timeout",
        metavar="SECONDS",
        help="wall-clock limit of one run, instead of each case's own",
    ),
    Option(
        name="--perf-yardstick",
        metavar="on|off",
        help="time a fixed small workload before and after each run, which tells a slower machine from slower code "
        "(ini perf_yardstick, default on)",
    ),
    Option(
        name="--perf-checkpoint-dir",
        metavar="DIR",
        is_harmless=True,
        help="folder for the checkpoints of cases that ask for the time to save and load one (extra_metrics of a "
        "recipe), removed after each launch (ini perf_checkpoint_dir)",
    ),
    Option(
        name="--perf-baselines",
        metavar="DIR",
        is_harmless=True,
        help="where baselines are stored (ini perf_baselines, default baselines/ in the root directory)",
    ),
    Option(
        name="--perf-output",
        metavar="DIR",
        is_harmless=True,
        help=f"where results.json and results.md are written (default {STATE_DIR}/latest in the root directory)",
    ),
    Option(
        name="--update-baselines",
        needs_tests=True,
        help="store this session's complete, valid runs as baselines where something moved more than its own noise, "
        "and show old -> new; regressed and inconclusive cases keep theirs without --perf-accept-regression",
    ),
    Option(
        name="--perf-accept-regression",
        needs="--update-baselines",
        help="with --update-baselines and --perf-reason: store regressed and inconclusive cases too",
    ),
    Option(
        name="--perf-reason",
        metavar="TEXT",
        needs="--update-baselines",
        help="with --update-baselines: why, kept in each file that is written",
    ),
    Option(
        name="--perf-update-new-only",
        needs="--update-baselines",
        help="with --update-baselines: store cases that have no baseline yet, leave every other file as it is",
    ),
    Option(
        name="--perf-add-session",
        needs="--update-baselines",
        help="with --update-baselines: add these runs to the stored ones as those of another session, to show how far "
        "days, nodes and boots differ, instead of replacing them",
    ),
    Option(
        name="--perf-prune",
        needs="--update-baselines",
        help="with --update-baselines: delete the system's stored cases that no collected perf test asks for",
    ),
    Option(
        name="--perf-anchor",
        metavar="RELEASE",
        needs="--update-baselines",
        help="with --update-baselines: also keep these runs as the anchor of a release, which slow decay in steps that "
        "each pass is judged against",
    ),
    Option(
        name="--perf-ab",
        metavar="REV",
        needs_tests=True,
        help="compare with another git revision instead of baselines: both versions run alternately on this machine "
        "and their ratio is judged; what is swapped: ini perf_ab_paths, perf_ab_setup",
    ),
    Option(
        name="--perf-ab-limit",
        metavar="SECONDS",
        needs="--perf-ab",
        help=f"with --perf-ab: time a case may take before it ends INCONCLUSIVE (default {DEFAULT_AB_LIMIT_SEC:.0f})",
    ),
    Option(
        name="--perf-against",
        metavar="WHAT",
        needs_tests=True,
        help="published: judge by what performance pages promise on this system, not by stored baselines: by the row "
        "that a case's recipe was made of, else by the newest row of its workload; nothing is stored",
    ),
    Option(
        name="--perf-confirm",
        metavar="WHEN",
        help="auto (default): what a stored baseline does not clear is compared side by side with the baseline's own "
        "commit, and that decides, where the baseline names a clean commit that is at hand; always: so is every case; "
        "never (ini perf_confirm)",
    ),
    Option(
        name="--perf-confirm-limit",
        metavar="SECONDS",
        help="time a case may take for that (ini perf_confirm_limit, default "
        f"{DEFAULT_CONFIRM_LIMIT_SEC['cpu']:.0f} on cpu, else {DEFAULT_CONFIRM_LIMIT_SEC['cuda']:.0f})",
    ),
    Option(
        name="--perf-profile",
        needs_tests=True,
        help="run a failing case once more under torch.profiler and compare its operators with the stored profile; "
        "with --update-baselines: store that profile",
    ),
    Option(
        name="--perf-replay",
        metavar="DIR",
        needs_tests=True,
        help="launch nothing: judge the runs stored in this directory again, e.g. .nemoperf/runs/20261123-101500",
    ),
    Option(
        name="--perf-inject",
        metavar="PCT",
        help="self-test: delay each step by so many percent, e.g. 20%%; such a session is marked everywhere and never "
        "stored",
    ),
    Option(
        name="--perf-set",
        metavar="KEY=VALUE,...",
        is_repeatable=True,
        needs_tests=True,
        help="run the selected cases once under another layout or batch, e.g. tp=2,pp=4,mbs=2: cases of their own; "
        "gpus stay unless set, the data-parallel ranks follow",
    ),
    Option(
        name="--perf-framework",
        metavar="NAME,...",
        needs_tests=True,
        help="run each recipe in every one of these frameworks, e.g. torch,megatron: a test, a case and a baseline for "
        "each, and a table of them side by side",
    ),
    Option(
        name="--perf-dry-run",
        needs_tests=True,
        help="collect, resolve, check and price the selected cases (memory, FLOPs, expected time), launch nothing; "
        "--system may be any",
    ),
)

_NOTHING_MEASURED = "nothing is launched and measured; drop one of them"
EXCLUSIONS: Final = (
    ("--perf-inject", "--update-baselines", "an injected run is never stored; drop one of them"),
    (
        "--perf-add-session",
        "--perf-accept-regression",
        "runs of another speed are no further session of the same; drop one of them",
    ),
    ("--perf-add-session", "--perf-update-new-only", "new cases have no session to add to; drop one of them"),
    ("--perf-add-session", "--perf-anchor", "the anchor stays when a session is added; drop one of them"),
    (
        "--perf-anchor",
        "--perf-update-new-only",
        "an anchor is written into every case's file, new or not; drop one of them",
    ),
    ("--perf-accept-regression", "--perf-update-new-only", "new cases have nothing to lose; drop one of them"),
    (
        "--perf-set",
        "--update-baselines",
        "a trial is never stored among the project's baselines, for no recipe says how to repeat it; write the layout "
        "into a recipe, or drop one of them",
    ),
    (
        "--perf-ab",
        "--update-baselines",
        "a comparison of two revisions is no baseline; store one in a session of its own, or drop one of them",
    ),
    ("--perf-ab", "--perf-confirm", "a comparison is side by side already; drop one of them"),
    ("--perf-ab", "--perf-confirm-limit", "the limit of a comparison is --perf-ab-limit; drop one of them"),
    ("--perf-replay", "--perf-confirm", _NOTHING_MEASURED),
    ("--perf-dry-run", "--perf-confirm", _NOTHING_MEASURED),
    (
        "--perf-against",
        "--update-baselines",
        "runs that are judged by a page are not stored; store them in a session of its own, or drop one of them",
    ),
    ("--perf-against", "--perf-ab", "one judges by a page, one by another revision; drop one of them"),
    ("--perf-against", "--perf-confirm", "a page names no commit to compare with side by side; drop one of them"),
    (
        "--perf-against",
        "--perf-confirm-limit",
        "a page names no commit to compare with side by side; drop one of them",
    ),
    ("--perf-against", "--perf-profile", "a page prints no profile to compare with; drop one of them"),
    (
        "--perf-replay",
        "--update-baselines",
        "stored runs say nothing of this machine; launch them, or drop one of them",
    ),
    ("--perf-dry-run", "--update-baselines", _NOTHING_MEASURED),
    ("--perf-dry-run", "--perf-inject", _NOTHING_MEASURED),
    ("--perf-dry-run", "--perf-ab", _NOTHING_MEASURED),
    ("--perf-dry-run", "--perf-profile", _NOTHING_MEASURED),
    ("--perf-replay", "--perf-inject", _NOTHING_MEASURED),
    ("--perf-replay", "--perf-ab", _NOTHING_MEASURED),
    ("--perf-replay", "--perf-profile", _NOTHING_MEASURED),
    ("--perf-dry-run", "--perf-replay", "one prices, one judges; drop one of them"),
    (
        "--perf-ab",
        "--perf-profile",
        "a profile is compared with a stored one; drop --perf-ab, or profile each revision in a session of its own",
    ),
)
"""Options that exclude each other, and the reason with the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IniKey:
    """A key of the ini file.

    Attributes:
        name: As it is written.
        help: Text of ``--help``.
        type: Form of its value; None for text.
        default: Value if it is not set.
    """

    name: str
    help: str
    type: Literal["args", "bool", "linelist"] | None = None
    default: Any = ""


INI_KEYS: Final = (
    IniKey(
        name=PERF_TESTPATHS,
        help="folders that -m perf collects in place of testpaths, if no path is given",
        type="args",
        default=[],
    ),
    IniKey(name="perf_runs", help="independent launches that make a baseline"),
    IniKey(name="perf_max_runs", help="launches a perf case is judged by at most"),
    IniKey(
        name="perf_budget",
        help="seconds that the steps of a case's launches should take (default: 6 on cpu, else none; 0 for none): if "
        "the first one shows that they take longer, later ones run fewer steps, at least half, and a baseline takes "
        "fewer launches, at least 3; not with --update-baselines or --perf-runs",
    ),
    IniKey(
        name="perf_alpha",
        help=f"probability to call a loss as large as the tolerance REGRESSED (default {DEFAULT_ALPHA})",
    ),
    IniKey(name="perf_beta", help=f"probability not to find a loss that a case says it finds (default {DEFAULT_BETA})"),
    IniKey(
        name="perf_checkpoint_dir",
        help="folder for the checkpoints of cases that ask for the time to save and load one",
    ),
    IniKey(name="perf_tolerance", help="allowed worsening: [METRIC=]PCT, one a line", type="linelist", default=[]),
    IniKey(name="perf_find", help="worsening to be found: [METRIC=]PCT, one a line", type="linelist", default=[]),
    IniKey(
        name="perf_noise",
        help="noise of your machines, KIND=PCT, one a line: standard deviation between launches of a session (run), "
        "between sessions (session), between rounds side by side (round), of peak memory (memory); default: the "
        "system's; what baselines show is weighed against it",
        type="linelist",
        default=[],
    ),
    IniKey(name="perf_fail_on", help="comma-separated verdicts that fail a perf test"),
    IniKey(
        name="perf_fail_on_unasked",
        help="fail a session of the whole suite if stored baselines are asked for by no test (default false)",
        type="bool",
        default=False,
    ),
    IniKey(
        name="perf_require_verdict",
        help="fail a perf test that measured or judged nothing, and a session in which no case was judged (default "
        "false)",
        type="bool",
        default=False,
    ),
    IniKey(name="perf_confirm", help="auto, always or never: see --perf-confirm"),
    IniKey(name="perf_confirm_limit", help="seconds a case may take for that"),
    IniKey(
        name="perf_fail_on_machine",
        help="a loss of the very code, environment and recipe of the baseline is REGRESSED, not INCONCLUSIVE, for "
        "those who guard machines (default false)",
        type="bool",
        default=False,
    ),
    IniKey(name="perf_yardstick", help="on or off: time a fixed small workload before and after each run"),
    IniKey(name="perf_baselines", help="directory of stored baselines"),
    IniKey(name="perf_machine", help="name of a pool of identical machines that share CPU baselines"),
    IniKey(
        name="perf_python",
        help="interpreter that python means in a command, and whose torchrun or accelerate is taken: FRAMEWORK=PATH, "
        "one a line, or PATH for all; relative to the root directory; a recipe's python comes first (default: PATH's)",
        type="linelist",
        default=[],
    ),
    IniKey(name="perf_release", help="release under test, which perf_waive(until=RELEASE) is compared with"),
    IniKey(
        name="perf_ab_paths",
        help="--perf-ab, --perf-confirm: PYTHONPATH entries of each side, relative to its checkout",
        type="linelist",
        default=[],
    ),
    IniKey(name="perf_ab_setup", help="the same: command run once in each side's checkout before it is measured"),
)


def add_options(parser: pytest.Parser) -> None:
    """Register every option and ini key of the plugin."""
    group = parser.getgroup("nemoperf", "performance regression of LLM training and RL (with -m perf)")
    for option in OPTIONS:
        option.add_to(group)
    for key in INI_KEYS:
        parser.addini(key.name, key.help, type=key.type, default=key.default)


def is_perf_selected(config: pytest.Config) -> bool:
    """Return whether ``-m`` asks for perf tests; if not, they are deselected."""
    return asks_for_perf(config.option.markexpr)


def is_perf_configured(config: pytest.Config) -> bool:
    """Return whether an option is given that only a perf session can honour, or that is an error."""
    return any(option.is_given(config) and (not option.is_harmless or option.is_empty(config)) for option in OPTIONS)
