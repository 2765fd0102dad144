"""The worked example of a framework in a package of its own, really installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "framework_package"
PERF_TEST = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
@pytest.mark.parametrize("layout", [Layout(gpus=1), Layout(gpus=2, tp=2)], ids=["one", "tp"])
def test_pulse(perf, layout):
    perf.check(Recipe(model="llama-tiny", layouts={"cpu": layout}, seq_len=64, global_batch_size=4, precision="fp32",
                      framework="pulse", steps=4, warmup_steps=2))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example into a folder, without a network, and return the folder."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-index"]
    pip += ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    return folder / "site"


def run(words: list[str], *, site: Path, directory: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=directory, env=env, capture_output=True, text=True, check=False, timeout=300
    )


def test_an_installed_package_is_measured_and_judged(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_pulse.py").write_text(PERF_TEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nperf_runs = 1\nperf_yardstick = off\n", encoding="utf-8")

    done = run(["pytest", "-m", "perf", "--system=cpu", "-rs", "-p", "no:cacheprovider"], site=site, directory=tmp_path)

    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "pulse copies whole models only, not tp2; use dp_replicate=2" in " ".join(done.stdout.split())
    results = json.loads((tmp_path / ".nemoperf" / "latest" / "results.json").read_text(encoding="utf-8"))
    assert results["cases"][0]["plan"]["framework"] == "pulse"
    assert results["cases"][0]["measurement"]["environment"]["nemoperf-pulse"] == "1.0"


def test_an_interpreter_without_the_package_is_skipped_with_the_command(site: Path, tmp_path: Path) -> None:
    (tmp_path / "test_pulse.py").write_text(PERF_TEST, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nperf_python = pulse=there\n", encoding="utf-8")
    there = tmp_path / "there"
    there.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} "$@"\n', encoding="utf-8")
    there.chmod(0o755)

    done = run(["pytest", "-m", "perf", "--system=cpu", "-rs", "-p", "no:cacheprovider"], site=site, directory=tmp_path)

    assert "2 skipped" in done.stdout, done.stdout + done.stderr
    text = f"framework='pulse' needs nemoperf-pulse, which is not installed in {there}; install it with: pip install"
    assert text in " ".join(done.stdout.split())


def test_the_command_line_names_it_with_its_distribution(site: Path, tmp_path: Path) -> None:
    main = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main(['frameworks', 'pulse', '--json']))"
    env = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", main], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=300
    )

    (status,) = json.loads(done.stdout)["frameworks"]
    assert done.returncode == 0
    assert (status["name"], status["origin"], status["version"]) == ("pulse", "nemoperf-pulse 1.0", "1.0")
    assert status["is_runnable"]


def test_the_page_shows_the_adapter_as_it_is() -> None:
    page = (EXAMPLE.parents[1] / "framework-plans.md").read_text(encoding="utf-8")

    assert (EXAMPLE / "src" / "nemoperf_pulse.py").read_text(encoding="utf-8") in page
