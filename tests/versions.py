"""Run the plugin's tests without ranks on the versions of pytest and pytest-benchmark that pyproject.toml promises.

``make test-pytest`` runs it with the interpreter of an environment of its own, into which it installs the versions one
after another: of each range the oldest, the first release of each later minor version, and the newest. With the newest
pytest it runs the tests beside other plugins too. It prints a table and exits with 1 if a test failed or none ran.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from packaging.version import Version

ROOT = Path(__file__).parents[1]
NEIGHBOURS = (
    "pytest-xdist",
    "pytest-rerunfailures",
    "pytest-timeout",
    "pytest-randomly",
    "pytest-cov",
    "pytest-asyncio",
)
PLUGIN_TESTS = (
    "tests/integration",
    "tests/options/test_selection.py",
    "-m",
    "not slow and not ranks and not neighbours",
    "-n",
    "2",
)


def stated_minimum(package: str) -> Version:
    """Return the lowest version that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *project["optional-dependencies"]["benchmark"]]
    for requirement in requirements:
        match = re.fullmatch(rf"{package}>=([\d.]+)", requirement)
        if match:
            return Version(match[1])
    raise SystemExit(f"pyproject.toml: no requirement {package}>=VERSION without an upper end")


def versions_to_run(package: str) -> list[Version]:
    """Return the first release of each minor version of the stated range, and the newest."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "index", "versions", package]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    listed = re.search(r"Available versions: (.+)", text)
    if listed is None:
        raise SystemExit(f"pip index versions {package}: lists none:\n{text}")
    minimum = stated_minimum(package)
    known = sorted(version for version in map(Version, listed[1].split(", ")) if version >= minimum)
    first: dict[tuple[int, ...], Version] = {}
    for version in known:
        first.setdefault(version.release[:2], version)
    return sorted({*first.values(), known[-1]})


def install(*requirements: str) -> None:
    """Install requirements into this environment, in place of other versions."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "-q", *requirements]
    subprocess.run(command, check=True)


def run(title: str, tests: Sequence[str]) -> bool:
    """Run tests and print a row of the table; return whether some ran and all of them passed."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "junit.xml"
        command = [sys.executable, *"-m pytest -q -p no:randomly -p no:asyncio".split(), f"--junitxml={report}"]
        done = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
        counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        if report.exists():
            suite = next(ElementTree.parse(report).iter("testsuite"))  # noqa: S314 (pytest's own)
            counts = {name: int(suite.attrib[name]) for name in counts}
    num_bad = counts["failures"] + counts["errors"]
    num_passed = counts["tests"] - num_bad - counts["skipped"]
    is_good = done.returncode == 0 and num_passed > 0
    took = f"{time.monotonic() - started:.0f} s"
    print(f"{title:<40} {num_passed:>6} {num_bad:>6} {counts['skipped']:>7} {took:>6}", flush=True)
    if not is_good:
        print(done.stdout + done.stderr)
    return is_good


def main() -> int:
    """Run everything and return the exit code."""
    pytests = versions_to_run("pytest")
    benchmarks = versions_to_run("pytest-benchmark")
    newest = f"pytest=={pytests[-1]}"
    install(*NEIGHBOURS, newest, f"pytest-benchmark=={benchmarks[-1]}")
    print(f"{'':<40} {'passed':>6} {'failed':>6} {'skipped':>7} {'took':>6}")
    results = [run(f"{newest} with other plugins", ["tests/integration/test_neighbours.py", "-m", "neighbours"])]
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "-q", "-y", *NEIGHBOURS[3:]], check=True)
    for version in benchmarks:  # older ones can't run with the newest pytest
        install(f"pytest-benchmark=={version}", f"pytest=={pytests[0]}")
        results.append(run(f"pytest-benchmark=={version}", ["tests/integration/test_benchmark.py"]))
    for version in pytests:
        install(f"pytest=={version}")
        results.append(run(f"pytest=={version}", PLUGIN_TESTS))
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
