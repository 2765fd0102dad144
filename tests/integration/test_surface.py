"""The names other people build on; a change here is a breaking change and needs a news fragment of that type."""

from __future__ import annotations

import re
import subprocess
import sys

from pytest_nemoperf.options import hookspecs
from tests.integration.conftest import Project

OPTIONS = [
    "--system",
    "--perf-runs",
    "--perf-max-runs",
    "--perf-tolerance",
    "--perf-find",
    "--perf-fail-on",
    "--perf-timeout",
    "--perf-yardstick",
    "--perf-checkpoint-dir",
    "--perf-baselines",
    "--perf-output",
    "--update-baselines",
    "--perf-accept-regression",
    "--perf-reason",
    "--perf-update-new-only",
    "--perf-add-session",
    "--perf-prune",
    "--perf-anchor",
    "--perf-ab",
    "--perf-ab-limit",
    "--perf-against",
    "--perf-confirm",
    "--perf-confirm-limit",
    "--perf-profile",
    "--perf-replay",
    "--perf-inject",
    "--perf-set",
    "--perf-framework",
    "--perf-dry-run",
]
INI_KEYS = [
    "perf_testpaths",
    "perf_runs",
    "perf_max_runs",
    "perf_budget",
    "perf_alpha",
    "perf_beta",
    "perf_checkpoint_dir",
    "perf_tolerance",
    "perf_find",
    "perf_noise",
    "perf_fail_on",
    "perf_fail_on_unasked",
    "perf_require_verdict",
    "perf_confirm",
    "perf_confirm_limit",
    "perf_fail_on_machine",
    "perf_yardstick",
    "perf_baselines",
    "perf_machine",
    "perf_python",
    "perf_release",
    "perf_ab_paths",
    "perf_ab_setup",
]


def test_the_help_explains_every_option_and_ini_key(project: Project) -> None:
    text = project.pytester.runpytest_inprocess("--help").stdout.str()

    group = text.partition("(with -m perf):\n")[2].partition("\n\n")[0]
    words = r"(?:\S+)?(?:  +|\n {24})\S"  # an argument, then the explanation, on this line or the next one
    assert re.findall(rf"^  (--[a-z-]+){words}", group, flags=re.MULTILINE) == OPTIONS
    assert re.findall(r"^  (perf_\w+) \(\w+\):(?: +|\n {24})\S", text, flags=re.MULTILINE) == INI_KEYS


def test_hooks_keep_their_names() -> None:
    assert [name for name in vars(hookspecs) if name.startswith("pytest_")] == ["pytest_nemoperf_frameworks"]


def test_marker_and_fixture_are_listed(project: Project) -> None:
    project.pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(
        [
            "@pytest.mark.perf(tolerance=PCT*find=PCT*",
            "@pytest.mark.perf_waive(reason=TEXT, until=DAY_OR_RELEASE, floor=PCT)*",
        ]
    )
    listed = project.pytester.runpytest_inprocess("--fixtures").stdout
    listed.fnmatch_lines_random(["perf -- *entry.py*", "published_recipe -- *entry.py*"])


def test_plain_tests_that_import_a_recipe_load_no_codec() -> None:
    program = (
        "import sys; import pytest_nemoperf.plugin.entry; from pytest_nemoperf import Recipe; "
        "sys.exit('msgspec' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
