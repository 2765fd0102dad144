"""Commands that write no step records: their logs are read as they are."""

from __future__ import annotations

import pytest

from tests.builders import git_in
from tests.integration.conftest import CASE, Project, has_text

TRAINER = """
import os, pathlib, sys
assert "NEMOPERF_STEPS" in os.environ  # told, and not used
seconds = float(pathlib.Path("speed.txt").read_text())
steps = int(sys.argv[1])
out = open(sys.argv[2], "a") if len(sys.argv) > 2 else sys.stdout
print("starting \\x1b[31mup\\x1b[0m", file=out)
for step in range(1, steps + 1):
    print(f"iter {step}: loss {9 - step / 8:.4f}, time {seconds * 1000:.2f}ms, mfu 3.14%", file=out)
print("done", file=out)
"""
"""A program that knows nothing of step records."""
PATTERN = r'r"iter (?P<step>\d+): loss (?P<loss>\S+), time (?P<step_time_ms>[\d.]+)ms"'
MEGATRON = """
import sys
for step in range(1, int(sys.argv[1]) + 1):
    print(f" [2026-01-31 12:00:{step:02d}.000000] iteration {step:8d}/     100 | consumed samples: {step * 4:12d} |"
          " elapsed time per iteration (ms): 1000.0 | learning rate: 1.000000E-04 | global batch size:     4 |"
          f" lm loss: {9 - step / 8:.6E} | loss scale: 1.0 | grad norm: 1.500 | number of skipped iterations:   0 |"
          " number of nan iterations:   0 |")
"""


BY_HAND = f'log_format=LogFormat(kind="text", patterns=({PATTERN},))'
TEST = """
import sys
import pytest
from pytest_nemoperf import Layout, LogFormat, Recipe

@pytest.mark.perf
def test_speed(perf):
    perf.check(Recipe(
        model="llama-tiny", layouts={{"cpu": {layout}}}, seq_len=64, global_batch_size=4, precision="fp32",
        framework="command", command=(sys.executable, "steps.py", "{{total_steps}}", *{words}), {log}
    ))
"""


def write_test(
    project: Project, *, log: str = BY_HAND, words: tuple[str, ...] = (), layout: str = "Layout(gpus=1)"
) -> None:
    (project.root / "test_speed.py").write_text(TEST.format(log=log, words=words, layout=layout))


@pytest.fixture
def trainer(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project whose script is not changed, and whose recipe says how its lines are read."""
    monkeypatch.chdir(project.root)
    (project.root / "steps.py").write_text(TRAINER)
    write_test(project)
    return project


def step_time_of(project: Project) -> float:
    run = project.case()["measurement"]["runs"][0]
    value = run["metrics"]["step_time_sec"]
    assert isinstance(value, float)
    return value


def test_a_script_that_may_not_be_changed_is_judged_by_its_log(trainer: Project) -> None:
    trainer.run("--update-baselines").assert_outcomes(passed=1)
    trainer.run().assert_outcomes(passed=1)
    trainer.set_step_time(0.12)

    slower = trainer.run()

    slower.assert_outcomes(failed=1)
    slower.stdout.fnmatch_lines([f"REGRESSED {CASE}", "tokens/sec/GPU is 16.7% below the baseline*"])


def test_what_the_log_does_not_tell_is_not_stored(trainer: Project) -> None:
    trainer.run("--update-baselines")

    (run,) = trainer.stored()["runs"]
    assert run["metrics"]["step_time_sec"] == pytest.approx(0.1)
    assert "peak_memory_gib" not in run["metrics"]
    assert run.get("phases", {}) == {}
    assert run["loss"] == pytest.approx(9 - 13 / 8)
    assert run.get("grad_norm") is None


def test_a_preset_is_three_lines(trainer: Project) -> None:
    (trainer.root / "steps.py").write_text(MEGATRON)
    write_test(trainer, log='log_format="megatron"')

    trainer.run("--update-baselines").assert_outcomes(passed=1)

    assert trainer.stored()["runs"][0]["metrics"]["step_time_sec"] == 1.0


def test_a_log_in_a_file_that_each_run_continues_is_read_from_its_own_lines(trainer: Project) -> None:
    write_test(trainer, log=f'{BY_HAND}, log_file="train.log"', words=("train.log",))
    trainer.run("--update-baselines").assert_outcomes(passed=1)
    trainer.set_step_time(0.12)

    trainer.run().assert_outcomes(failed=1)

    assert step_time_of(trainer) == pytest.approx(0.12)


def test_stored_runs_are_judged_again_without_their_log(trainer: Project) -> None:
    trainer.run("--update-baselines")
    trainer.run()
    for log in trainer.root.glob(".nemoperf/runs/*/*/run-*/logs/rank0.log"):
        log.unlink()

    trainer.run("--perf-replay", str(next(iter(trainer.root.glob(".nemoperf/runs/*"))))).assert_outcomes(passed=1)


def test_a_command_per_rank_is_read_by_the_log_of_the_rank_that_writes_one(trainer: Project) -> None:
    script = trainer.root / "steps.py"
    script.write_text(f"import os, sys\nif os.environ['RANK'] == '0': sys.exit()\n{TRAINER}")
    write_test(trainer, log=f"{BY_HAND}, is_command_per_rank=True", layout="Layout(gpus=2, dp_shard=2)")

    trainer.run("--perf-fail-on=none").assert_outcomes(passed=1)

    assert step_time_of(trainer) == pytest.approx(0.1)


WRONG = {
    "other lines": ('print("Schritt 1: Verlust 2.5")', ["has 1 line", "the nearest line is", "Schritt 1: Verlust 2.5"]),
    "no output": ("", ["is empty: no step of the LogFormat of kind text"]),
    "fewer steps": (TRAINER.replace("int(sys.argv[1])", "5"), ["has 5 of the plan's 13 steps"]),
    "more steps": (TRAINER.replace("int(sys.argv[1])", "40"), ["has 40 steps and the plan only 13", "steps=37"]),
    "every second": (
        TRAINER.replace("range(1, steps + 1)", "range(2, steps + 1, 2)"),
        ["has a line every 2 steps, and a verdict needs each step"],
    ),
    "two runs": (TRAINER + "print('iter 3: loss 1.0, time 9.00ms')", ["step 3 after step 13: two runs in one log"]),
}


@pytest.mark.parametrize(("script", "texts"), WRONG.values(), ids=WRONG.keys())
def test_a_log_that_tells_no_run_is_one_clear_error(script: str, texts: list[str], trainer: Project) -> None:
    (trainer.root / "steps.py").write_text(script)

    result = trainer.run()

    result.assert_outcomes(failed=1)
    for text in texts:
        assert has_text(result, text), text


@pytest.mark.parametrize("log_file", ["train.log", "{run_dir}/train.log"])
def test_both_sides_of_a_comparison_are_read_by_their_own_log(log_file: str, trainer: Project) -> None:
    write_test(trainer, log=f'{BY_HAND}, log_file="{log_file}"', words=(log_file,))
    git_in(trainer.root, "init", "--quiet", "--initial-branch=main")
    git_in(trainer.root, "add", ".")
    git_in(trainer.root, "commit", "--quiet", "--message=all")
    trainer.set_step_time(0.12)

    result = trainer.run("--perf-ab", "main")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["tokens/sec/GPU is 16.7% below old (main, ???????)*"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            'framework_config="x.sh", framework="megatron_lm", log_format="torchtitan"',
            "log_format='torchtitan' with",
        ),
        (
            'framework_options={"a": 1}, framework="command", command=("x",)',
            "framework_options={'a': 1} with",
        ),
    ],
    ids=["log of another", "options of a command"],
)
def test_settings_that_nobody_would_read_are_refused(project: Project, changes: str, message: str) -> None:
    project.pytester.makepyfile(
        test_speed=f"""
        import pytest
        from pytest_nemoperf import Layout, Recipe

        @pytest.mark.perf
        def test_speed(perf):
            perf.check(Recipe(model="llama-tiny", layouts={{"cpu": Layout(gpus=1)}}, seq_len=64,
                              global_batch_size=4, precision="fp32", {changes}))
        """
    )

    result = project.run()

    result.assert_outcomes(failed=1)
    assert has_text(result, message)
