"""--perf-framework: each recipe in several frameworks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.conftest import NATIVE, Project, has_text, usage_error

CONFTEST = """
import pathlib, sys
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.frameworks.protocol import RankCommand

class Mine(CommandFramework):
    def __init__(self, name):
        self._name = name

    @property
    def name(self):
        return self._name

    def unsupported(self, plan):
        if self.name == "picky" and plan.layout.tp > 1:
            return f"picky has no tensor parallelism, and the plan has tp={plan.layout.tp}"

    def command(self, plan, *, run_dir):
        folder = pathlib.Path(__file__).parent
        env = {"NEMOPERF_PLAN": str(run_dir / "plan.json"), "NEMOPERF_STEPS": str(run_dir / "steps.jsonl")}
        if plan.framework == "broken":
            return RankCommand(argv=(sys.executable, "-c", "raise SystemExit('no such trainer')"),
                               num_processes=1, is_rank=False, env=env)
        return RankCommand(argv=(sys.executable, str(folder / f"{plan.framework}.py")), num_processes=1, is_rank=False,
                           env=env)

def pytest_nemoperf_frameworks(config):
    return map(Mine, ("swift", "slow", "picky", "broken"))
"""
TESTS = """
import pytest
from pytest_nemoperf import Layout, Recipe

LAYOUTS = {"single": Layout(gpus=1), "tp2": Layout(gpus=2, tp=2)}

@pytest.mark.perf
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiny(perf, layout):
    perf.check(Recipe(
        model="llama-tiny", layouts={"cpu": LAYOUTS[layout]}, seq_len=64, global_batch_size=4, precision="fp32",
        framework="swift",
    ))
"""
ONE_TEST = TESTS.replace('@pytest.mark.parametrize("layout", LAYOUTS)\n', "").replace(
    "test_tiny(perf, layout)", "test_tiny(perf, layout='single')"
)
PARAMETRISED = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
@pytest.mark.parametrize("framework", ["swift", "slow"])
def test_tiny(perf, framework):
    perf.check(Recipe(
        model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4, precision="fp32",
        framework=framework, env={"MINE": framework},
    ))
"""
OTHER_TESTS = """
import sys, time, unittest
import pytest
from pytest_nemoperf import Layout, Recipe

RECIPE = Recipe(
    model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4, precision="fp32",
    framework="swift",
)

@pytest.mark.perf
def test_loop(perf):
    with perf.measure("mine", tokens_per_step=8, steps=4, warmup_steps=2) as steps:
        for step in steps:
            time.sleep(0.01)

@pytest.mark.perf
def test_call(benchmark, perf):
    benchmark.pedantic(time.sleep, args=(0.001,), rounds=10)

@pytest.mark.perf
def test_program(perf):
    perf.check(Recipe(
        model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4, precision="fp32",
        framework="command", command=(sys.executable, "-c", "raise SystemExit('it ran')"),
    ))

@pytest.mark.perf
class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _perf(self, perf):
        self.perf = perf

    def test_tiny(self):
        self.perf.check(RECIPE)
"""
ONLY_SLOW = """
import pytest
from pytest_nemoperf import Layout, Recipe

@pytest.mark.perf
def test_tiny(perf):
    perf.check(Recipe(
        model="llama-tiny", layouts={"cpu": Layout(gpus=1)}, seq_len=64, global_batch_size=4, precision="fp32",
        framework="slow", has_varying_lengths=True, python="python-of-slow",
    ))
"""
SINGLE = "pretrain-llama-tiny-1n1g-{}fp32-single-seq64-gbs4-mbs1"
TP2 = "pretrain-llama-tiny-1n2g-{}fp32-tp2-seq64-gbs4-mbs1"
STEP_TIMES = {"swift": 0.1, "slow": 0.125, "picky": 0.2}


@pytest.fixture
def frameworks(project: Project) -> Project:
    """A project with frameworks whose runs have step times of their own, and one recipe in two layouts."""
    script = (project.root / "steps.py").read_text()
    for name, seconds in STEP_TIMES.items():
        (project.root / f"{name}.py").write_text(script.replace("speed.txt", f"{name}.txt"))
        (project.root / f"{name}.txt").write_text(str(seconds))
    (project.root / "steps.py").unlink()
    project.pytester.makeconftest(CONFTEST)
    project.pytester.makepyfile(test_speed=TESTS)
    return project


def comparisons(project: Project) -> dict[str, dict[str, Any]]:
    """Return the rows of each comparison in results.json, by recipe and framework."""
    found = {}
    for comparison in project.results()["by_framework"]:
        found[comparison["recipe"]] = {row["framework"]: row for row in comparison["rows"]}
    return found


def baselines(project: Project) -> list[str]:
    return sorted(path.stem for path in (project.root / "baselines" / "cpu").iterdir())


def test_each_recipe_runs_in_every_framework_and_they_are_shown_side_by_side(frameworks: Project) -> None:
    result = frameworks.run("--perf-framework=slow,swift,picky", "-v", "-rs")

    result.assert_outcomes(passed=5, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "perf: each recipe runs in slow, swift, picky (--perf-framework)*",
            "*test_tiny[[]single-slow]*",
            "*test_tiny[[]single-swift]*",
            "*test_tiny[[]single-picky]*",
            "*test_tiny[[]tp2-slow]*",
            "frameworks side by side",
            "llama-tiny single",
            "*framework */s/GPU */s/GPU *GiB */ slow *diff *spread",
            "*slow * 2,048 * 1.000 *-*-",
            "*swift * 2,560 * 1.250 *0% *-",
            "*picky * 1,280 * 0.625 *0% *-",
            "llama-tiny tp2",
            "*picky *- *-*-*-*-*-*",
            "*picky: picky has no tensor parallelism, and the plan has tp=2",
        ]
    )
    rows = comparisons(frameworks)
    assert list(rows) == [SINGLE.format(""), TP2.format("")]
    assert rows[SINGLE.format("")]["swift"]["ratio"] == 1.25
    assert rows[SINGLE.format("")]["swift"]["case"] == SINGLE.format("swift-")
    assert rows[TP2.format("")]["picky"]["problem"].startswith("picky has no tensor parallelism")
    page = (frameworks.latest / "results.md").read_text()
    for title in ("## picky Pre-Training Performance", "## slow Pre-Training Performance", "## Side by side"):
        assert title in page


def test_a_single_framework_replaces_that_of_the_recipes(frameworks: Project) -> None:
    result = frameworks.run("--perf-framework=slow", "-k", "single")

    result.assert_outcomes(passed=1, deselected=1)
    assert frameworks.case()["plan"]["framework"] == "slow"
    assert comparisons(frameworks) == {}
    assert not has_text(result, "side by side")


def test_a_keyword_selects_a_framework_and_the_command_to_run_again_names_all(frameworks: Project) -> None:
    args = ("--perf-framework=swift,slow", "-k", "single and slow")
    frameworks.run("--update-baselines", *args).assert_outcomes(passed=1, deselected=3)
    (frameworks.root / "slow.txt").write_text("0.2")

    result = frameworks.run(*args)

    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        ["  pytest -m perf --system=cpu --perf-framework=swift,slow *", "  'test_speed.py::test_tiny[[]single-slow]'"]
    )


def test_a_test_parametrised_by_the_project_gets_the_same_table(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=PARAMETRISED)

    result = frameworks.run()

    result.assert_outcomes(passed=2)
    assert comparisons(frameworks)[SINGLE.format("")]["slow"]["ratio"] == 0.8


def test_under_the_option_such_a_test_runs_each_framework_once(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=PARAMETRISED)

    result = frameworks.run("--perf-framework=slow,swift", "-rs")

    result.assert_outcomes(passed=2, skipped=2)
    assert has_text(result, f"under --perf-framework this is the case {SINGLE.format('slow-')} of test_speed.py::")
    assert list(comparisons(frameworks)[SINGLE.format("")]) == ["slow", "swift"]


def test_loops_and_benchmarks_run_once_and_programs_in_no_other_framework(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=OTHER_TESTS)

    result = frameworks.run("--perf-framework=slow,swift", "-rs", "--perf-fail-on=none", "-k", "not TestCase")

    result.assert_outcomes(passed=2, skipped=3, deselected=1)
    assert has_text(result, "a loop of the test process is of no framework, and runs once: in the test of slow")
    assert has_text(result, "the recipe's command trains in a way of its own, which swift does not know")
    cases = [case["verdict"]["case"] for case in frameworks.results()["cases"]]
    assert cases == ["loop-mine", "bench-test_speed.test_call"]


def test_a_test_without_the_fixture_as_an_argument_runs_in_its_recipes_framework(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=OTHER_TESTS)

    result = frameworks.run("--perf-framework=slow", "-k", "TestCase")
    priced = frameworks.run("--perf-framework=slow", "-k", "TestCase", "--perf-dry-run")

    result.assert_outcomes(passed=1, deselected=3)
    text = "TestCase::test_tiny runs in its recipe's framework, swift: --perf-framework makes tests"
    assert has_text(result, text)
    assert has_text(priced, text)
    assert frameworks.case()["plan"]["framework"] == "swift"


def test_a_setting_that_one_framework_lacks_does_not_break_the_others(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=ONLY_SLOW)

    result = frameworks.run("--perf-framework=torch,swift", "-rs")

    result.assert_outcomes(passed=1, skipped=1)
    assert has_text(
        result, "torch-fp32-single-seq64-gbs4-mbs1-varlen: llama-tiny on cpu: has_varying_lengths=True with"
    )
    (rows,) = comparisons(frameworks).values()
    assert "has_varying_lengths=True" in rows["torch"]["problem"]
    assert rows["swift"]["ratio"] == 1.0


def test_a_recipe_that_breaks_a_rule_in_every_framework_fails(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(
        test_speed=ONE_TEST.replace("global_batch_size=4", "global_batch_size=3, micro_batch_size=2")
    )

    result = frameworks.run("--perf-framework=swift,slow")

    result.assert_outcomes(failed=2)
    assert has_text(result, "global_batch_size=3 is not a multiple of micro_batch_size")


def test_a_run_that_fails_fails_its_test_and_is_in_the_table(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=ONE_TEST)

    result = frameworks.run("--perf-framework=broken,swift")

    result.assert_outcomes(failed=1, passed=1)
    rows = comparisons(frameworks)[SINGLE.format("")]
    assert "no such trainer" in rows["broken"]["problem"]
    assert rows["swift"]["ratio"] == 1.0
    assert has_text(result, "broken has no figures, so the ratios are to swift")


def test_an_interpreter_that_is_not_there_fails_its_framework_and_is_in_the_table(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=ONE_TEST)

    result = frameworks.run("--perf-framework=slow,swift", "-o", "perf_python=slow=gone/python")

    result.assert_outcomes(failed=1, passed=1)
    problem = comparisons(frameworks)[SINGLE.format("")]["slow"]["problem"]
    assert problem.startswith(f"{SINGLE.format('slow-')}: ini perf_python: python='gone/python': ")


def test_baselines_of_other_frameworks_stay_where_a_recipe_asks_for_its_own(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=ONE_TEST)
    frameworks.run("--update-baselines", "--perf-framework=swift,slow").assert_outcomes(passed=2)
    stored = [SINGLE.format("slow-"), SINGLE.format("swift-")]
    assert baselines(frameworks) == stored

    plain = frameworks.run("--update-baselines", "--perf-prune", "-o", "perf_fail_on_unasked=true")
    kept = baselines(frameworks)
    again = frameworks.run("--perf-framework=slow,swift", "-o", "perf_fail_on_unasked=true")

    plain.assert_outcomes(passed=1)
    assert kept == stored
    again.assert_outcomes(passed=2)
    again.stdout.fnmatch_lines(["*2 PASSED*"])


def test_a_session_that_runs_other_frameworks_alone_deletes_nothing_of_the_recipes(frameworks: Project) -> None:
    frameworks.run("--update-baselines").assert_outcomes(passed=2)
    folder = frameworks.root / "baselines" / "cpu"
    case = SINGLE.format("swift-")
    (folder / f"{case}-old.json").write_text((folder / f"{case}.json").read_text().replace(case, f"{case}-old"))

    frameworks.run("--update-baselines", "--perf-prune", "--perf-framework=picky").assert_outcomes(passed=1, skipped=1)

    assert baselines(frameworks) == [SINGLE.format("picky-"), SINGLE.format("swift-"), TP2.format("swift-")]


def test_another_layout_applies_to_every_framework(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=ONE_TEST)

    result = frameworks.run("--perf-framework=swift,slow", "--perf-set=mbs=2")

    result.assert_outcomes(passed=2)
    assert list(comparisons(frameworks)) == ["pretrain-llama-tiny-1n1g-fp32-single-seq64-gbs4-mbs2+set"]


def test_a_dry_run_prices_each_framework(frameworks: Project) -> None:
    result = frameworks.run("--perf-framework=swift,picky,torch", "--perf-dry-run")

    result.assert_outcomes(skipped=6)
    assert has_text(result, "picky has no tensor parallelism")
    for framework in ("swift", "picky", "torch"):
        assert has_text(result, f"tiny[tp2-{framework}]")


def test_stored_runs_are_judged_again_side_by_side(frameworks: Project) -> None:
    frameworks.pytester.makepyfile(test_speed=ONE_TEST)
    frameworks.run("--perf-framework=swift,slow").assert_outcomes(passed=2)
    (session,) = (frameworks.root / ".nemoperf" / "runs").iterdir()

    result = frameworks.run(f"--perf-replay={session}", "--perf-framework=swift,picky,slow", "-rs")

    result.assert_outcomes(passed=2, skipped=1)
    rows = comparisons(frameworks)[SINGLE.format("")]
    assert rows["slow"]["ratio"] == 0.8
    assert rows["picky"]["problem"]


def test_a_framework_of_a_folders_own_conftest_is_known(frameworks: Project) -> None:
    folder = frameworks.root / "perf"
    folder.mkdir()
    for name in ("conftest.py", "test_speed.py", "slow.py", "slow.txt"):
        (frameworks.root / name).rename(folder / name)

    result = frameworks.run("--perf-framework=slow", "-k", "single")

    result.assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--perf-framework=swift,slwo"], "--perf-framework: unknown framework 'slwo'; did you mean slow?"),
        (["--perf-framework=swift,,slow"], "--perf-framework=swift,,slow: a name is empty; write e.g. torch,megatron"),
        (["--perf-framework=slow, slow"], "slow is given twice; give each framework once"),
        (["--perf-framework="], "--perf-framework has an empty value"),
        (["--perf-framework=swift", "-m", "not perf"], "--perf-framework needs perf tests to apply to: add -m perf"),
    ],
)
def test_names_that_can_not_be_honoured_are_refused_before_anything_runs(
    frameworks: Project, args: list[str], message: str
) -> None:
    result = frameworks.run(*args)

    assert message in usage_error(result)
    assert not (frameworks.root / ".nemoperf" / "runs").exists()


@pytest.mark.ranks
def test_real_ranks_train_the_same_under_two_names(project: Project) -> None:
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="dp_shard", env="{}"))
    project.pytester.makeconftest(
        "from pytest_nemoperf.frameworks.torch import TorchFramework\n\n"
        "class Again(TorchFramework):\n    name = 'again'\n\n"
        "def pytest_nemoperf_frameworks(config):\n    return [Again()]\n"
    )

    result = project.run("--perf-fail-on=none", "--perf-framework=torch,again")

    result.assert_outcomes(passed=4)
    for rows in comparisons(project).values():
        assert rows["again"]["loss"]["change_pct"] == 0.0
        assert rows["again"]["loss"]["loss"] > 0
        assert rows["again"]["ratio"] > 0
