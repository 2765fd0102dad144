from __future__ import annotations

import pytest

from pytest_nemoperf.records.health import CpuHealth, HealthReport
from pytest_nemoperf.records.tracers import active_tracers
from tests.integration.conftest import Project, has_text

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
    project.set_step_time(0.1)

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


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        ("timer=time.process_time", "timer is 'time.process_time', the default in the baseline"),
        ("disable_gc=True", "disable_gc is True, the default in the baseline"),
    ],
)
def test_another_way_to_time_does_not_compare(project: Project, option: str, difference: str) -> None:
    rounds = "    benchmark.pedantic(sum, args=(range(100_000),), rounds=20)\n"
    marked = (
        "import time\nimport pytest\n@pytest.mark.perf\n@pytest.mark.benchmark({})\ndef test_sum(benchmark):\n" + rounds
    )
    project.pytester.makepyfile(test_speed=marked.format(""))
    project.run("--update-baselines").assert_outcomes(passed=1)
    project.pytester.makepyfile(test_speed=marked.format(option))

    result = project.run()

    assert has_text(result, f"other workload: {difference}")


UNITTEST = """
import pathlib, time, unittest
import pytest

@pytest.mark.perf
class TestSleep(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def keep(self, benchmark):
        self.benchmark = benchmark

    def test_sleep(self):
        seconds = float(pathlib.Path(__file__).with_name("speed.txt").read_text())
        self.benchmark.pedantic(time.sleep, args=(seconds,), rounds=5)

    def test_error(self):
        self.benchmark.pedantic(time.sleep, args=(0.001,), rounds=5)
        self.fail("for another reason")
"""


def test_a_benchmark_of_a_unittest_case_is_judged(project: Project) -> None:
    project.pytester.makepyfile(test_speed=UNITTEST)
    project.set_step_time(0.02)
    project.run("-k", "test_sleep").assert_outcomes(passed=1)
    project.set_step_time(0.1)

    result = project.run()

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*REGRESSED*bench-test_speed.TestSleep.test_sleep*", "*for another reason*"])
    assert not list(project.root.glob(".nemoperf/baselines/*/cpu/*test_error*"))


CLOCKED = """
import pytest

durations = iter({durations})
now, is_round_over = 0.0, True

def clock():
    global now, is_round_over
    is_round_over = not is_round_over
    now += next(durations) if is_round_over else 0.0
    return now

@pytest.mark.perf
@pytest.mark.benchmark(timer=clock)
def test_clocked(benchmark):
    benchmark.pedantic(len, args=((),), rounds=20)
"""


def clocked(project: Project, *, passes: list[list[float]], monkeypatch: pytest.MonkeyPatch) -> pytest.RunResult:
    """Run a benchmark with its own clock, by which rounds take the given seconds in each pass."""
    monkeypatch.setattr("pytest_nemoperf.plugin.fixture.MIN_PASS_SEC", 0.0)
    durations = [seconds for rounds in passes for seconds in rounds]
    project.pytester.makepyfile(test_speed=CLOCKED.format(durations=durations))
    return project.run()


STEADY, SLOWER = [1.0, 1.01] * 10, [1.0] * 10 + [2.0] * 10
QUICKENING = [1.2 - 0.01 * number for number in range(20)]
SLOWING = QUICKENING[::-1]


def test_a_benchmark_that_slows_down_in_every_pass_is_invalid(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = clocked(project, passes=[SLOWER] * 5, monkeypatch=monkeypatch)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*pass 1 of bench-* is dropped and measured again*", "*INVALID*so in 5 of as many*"])


def test_a_benchmark_that_has_not_settled_is_measured_again_and_has_one_row_in_the_librarys_table(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = clocked(project, passes=[SLOWER, STEADY], monkeypatch=monkeypatch)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*pass 1 of bench-* is dropped and measured again: the steps have not settled*"])
    result.stdout.fnmatch_lines(["*NO BASELINE*1*s*", "*benchmark: 1 tests*"])


def test_a_first_benchmark_on_a_restless_machine_is_recorded_with_its_noise(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = clocked(project, passes=[SLOWING, QUICKENING, SLOWING, QUICKENING, SLOWING], monkeypatch=monkeypatch)

    result.assert_outcomes(passed=1)
    assert has_text(result, "the machine was restless")
    assert has_text(result, "8.6% noise is reckoned with")


def test_the_librarys_table_shows_the_pass_that_counts(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    reports = iter([health_of(throttled_share=0.0)] * 2 + [health_of(throttled_share=0.5)] * 3)
    monkeypatch.setattr("pytest_nemoperf.machine.monitor.Monitor.report", lambda *_, **__: next(reports))

    result = clocked(project, passes=[SLOWING, QUICKENING, *[[3.0] * 20] * 3], monkeypatch=monkeypatch)

    result.stdout.fnmatch_lines(["test_clocked *1.0100 *1.2000 *"])


def health_of(*, throttled_share: float) -> HealthReport:
    cpu = CpuHealth(
        num_cores=2, own_share=0.5, foreign_share=0.0, idle_share=0.0, steal_share=0.0, throttled_share=throttled_share
    )
    return HealthReport(seconds=1.0, num_samples=2, is_measured_steps=True, cpu=cpu)


PROFILED = """
import sys
import pytest

@pytest.mark.perf
def test_profiled(benchmark):
    during = []
    sys.setprofile(lambda *_: None)
    try:
        benchmark.pedantic(lambda: during.append(sys.getprofile()), rounds=20)
    finally:
        sys.setprofile(None)
    print("paused" if set(during) == {None} else "profiled")
"""


def test_a_profiler_makes_a_benchmark_invalid_unless_the_library_pauses_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_nemoperf.runs.passes.active_tracers", active_tracers)
    project.pytester.makepyfile(test_speed=PROFILED)

    result = project.run("-rA")

    if "paused" in result.outlines:
        result.stdout.no_fnmatch_line("*(sys.setprofile)*")
    else:
        result.stdout.fnmatch_lines(["INVALID*(sys.setprofile) was active*"])


def test_a_fixture_that_only_has_the_name_is_left_alone(project: Project) -> None:
    project.pytester.makepyfile(
        test_speed="""
        import pytest

        @pytest.fixture
        def benchmark():
            return "mine"

        @pytest.mark.perf
        def test_mine(benchmark):
            assert benchmark == "mine"
        """
    )

    result = project.run("-p", "no:benchmark")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*judged nothing*"])


def test_a_benchmark_fixture_that_a_test_asks_for_by_name_is_judged(project: Project) -> None:
    project.pytester.makepyfile(
        test_speed=BENCHMARK.replace("def test_sleep(benchmark):", "def test_sleep(request):").replace(
            "    benchmark(", '    request.getfixturevalue("benchmark")('
        )
    )
    project.set_step_time(0.02)
    project.run().assert_outcomes(passed=1)
    project.set_step_time(0.1)

    result = project.run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED*bench-test_speed.test_sleep*"])


KERNEL = """
import pathlib, time
import pytest

@pytest.mark.perf
@pytest.mark.benchmark(min_rounds=5, max_time=0.2)
def test_sleep(benchmark):
    {info}
    seconds = float(pathlib.Path(__file__).with_name("speed.txt").read_text())
    benchmark(time.sleep, seconds)
"""
INFO = 'benchmark.extra_info.update(kernel="gemm", flops=2e12, dtype="bf16", shape={"m": 8}, mine="as well")'


def test_a_stated_kernel_has_rates_and_another_shape_does_not_compare(project: Project) -> None:
    project.pytester.makepyfile(test_speed=KERNEL.format(info=INFO))
    project.set_step_time(0.02)
    project.run("--update-baselines").assert_outcomes(passed=1)
    (case,) = project.results()["cases"]
    (run,) = case["measurement"]["runs"]
    rate = run["metrics"]["call_tflops_per_sec"]
    assert rate * run["metrics"]["time_per_call_sec"] == pytest.approx(2, rel=1e-4)
    assert case["measurement"]["workload"]["shape"] == {"m": 8}
    project.pytester.makepyfile(test_speed=KERNEL.format(info=INFO.replace('"m": 8', '"m": 16')))

    result = project.run()

    assert has_text(result, "other workload: shape: m is 16, 8 in the baseline")


def test_a_baseline_from_before_kernels_were_stated_still_compares(project: Project) -> None:
    project.pytester.makepyfile(test_speed=KERNEL.format(info="pass"))
    project.set_step_time(0.02)
    project.run("--update-baselines").assert_outcomes(passed=1)
    project.pytester.makepyfile(test_speed=KERNEL.format(info=INFO))
    project.set_step_time(0.1)

    result = project.run()

    result.stdout.fnmatch_lines(["*above the baseline*", "*REGRESSED*bench-test_speed.test_sleep*"])


def test_an_impossible_kernel_fails_its_test_in_words(project: Project) -> None:
    project.pytester.makepyfile(test_speed=KERNEL.format(info='benchmark.extra_info.update(kernel="gemm", flops=-1)'))
    project.set_step_time(0.001)

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, "extra_info['flops']=-1 must be a number of Python's own from 1")
    result.stdout.no_fnmatch_line("*plugin/hooks.py*")
    (left_out,) = project.results()["not_run"]
    assert "extra_info['flops']=-1" in left_out["reason"]
