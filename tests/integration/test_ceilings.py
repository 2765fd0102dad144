"""Ceilings in a session: a stored product beside the cases of ranks."""

from __future__ import annotations

import pytest

from pytest_nemoperf.machine.processor import available_cores
from tests.integration.conftest import CASE, PERF_TEST, Project, has_text

KERNEL = f"""
import time

@pytest.mark.perf
@pytest.mark.benchmark(min_rounds=5, max_time=0.2)
def test_a_product(benchmark):
    benchmark.extra_info.update(kernel="gemm", flops=2e9, dtype="fp32", shape={{"m": 8}}, threads={available_cores()})
    benchmark(time.sleep, 0.02)
"""


def test_a_case_stands_beside_the_product_that_is_stored_of_its_machine(project: Project) -> None:
    project.pytester.makepyfile(test_speed=PERF_TEST + KERNEL)
    project.run("-k", "product", "--update-baselines").assert_outcomes(passed=1)

    result = project.run("-k", "test_speed and not product")

    (case,) = project.results()["cases"]
    product = case["ceiling"]["products"]
    (run,) = case["measurement"]["runs"]
    share = 100 * run["metrics"]["tflops_per_sec_per_gpu"] / product["rate"]
    assert case["verdict"]["case"] == CASE
    assert case["ceiling"]["products_pct"] == pytest.approx(share)
    assert case["ceiling"]["optimizer_sec"] is None  # only the native engine's bytes are known
    assert product["source"] == "baselines/cpu/bench-test_speed.test_a_product.json"
    assert has_text(result, "of this machine's measured GEMM")


def test_a_session_without_a_stored_product_says_so_in_its_results_alone(project: Project) -> None:
    result = project.run()

    (case,) = project.results()["cases"]
    assert case["ceiling"]["products_pct"] is None
    assert "no product in fp32" in case["ceiling"]["why_none"]
    assert "GEMM" not in result.stdout.str()


def test_a_self_test_has_no_ceiling(project: Project) -> None:
    project.run("--update-baselines")

    project.run("--perf-inject=50%")

    (case,) = project.results()["cases"]
    assert case["ceiling"] is None
