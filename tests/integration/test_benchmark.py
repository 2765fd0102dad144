from __future__ import annotations

from tests.integration.conftest import Project

BENCHMARK = """
import pathlib, time
import pytest

@pytest.mark.perf
@pytest.mark.benchmark(min_rounds=5, max_time=0.2)
def test_sleep(benchmark):
    seconds = float(pathlib.Path(__file__).with_name("speed.txt").read_text())
    benchmark(time.sleep, seconds)
"""


def benchmark_project(project: Project) -> Project:
    project.pytester.makepyfile(test_speed=BENCHMARK)
    project.set_step_time(0.02)
    return project


def test_a_benchmark_test_is_a_case_with_the_same_verdicts(project: Project) -> None:
    benchmark_project(project).run()
    project.set_step_time(0.04)

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*above the baseline*", "*REGRESSED*bench-test_speed.test_sleep*"])


def test_a_benchmark_baseline_is_stored_like_every_other(project: Project) -> None:
    benchmark_project(project).run("--update-baselines").assert_outcomes(passed=1)

    assert (project.root / "baselines" / "cpu" / "bench-test_speed.test_sleep.json").exists()


def test_injection_delays_a_benchmark_too(project: Project) -> None:
    benchmark_project(project).run()

    result = project.run("--perf-inject=50%")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED*bench-test_speed.test_sleep*"])


def test_a_disabled_benchmark_skips_and_says_so(project: Project) -> None:
    result = benchmark_project(project).run("--benchmark-disable", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*--benchmark-disable*"])


def test_a_benchmark_fixture_never_called_is_invalid(project: Project) -> None:
    project.pytester.makepyfile(test_speed="import pytest\n@pytest.mark.perf\ndef test_idle(benchmark):\n    pass\n")

    result = project.run("-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the benchmark fixture was never called*"])
