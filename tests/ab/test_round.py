"""Rounds of two sides: small programs in real processes that take turns, fail, hang and are stopped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pytest_nemoperf.ab.round import ABRunner, NoTurnsError, RoundOutput
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import LaunchError, RevisionError
from pytest_nemoperf.frameworks.command import CommandFramework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import make_plan

PROGRAM = """
import json, os, pathlib, signal, sys, time

here = pathlib.Path(__file__).parent
(here / "pid").write_text(str(os.getpid()))
(here / "pid").rename(here.parent / f"pid-{{here.name}}")

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.native.rank.turns import steps_in_turn
from pytest_nemoperf.records.step import RankError, error_file
from pytest_nemoperf.recipes.ab_turn import ABTurn

def leave_error(kind, error, _traceback):
    record = RankError(rank=0, time_sec=0.0, message=f"{{kind.__name__}}: {{error}}", traceback="",
                       error_type=kind.__name__)
    pathlib.Path(os.environ["NEMOPERF_RUN_DIR"], error_file(0)).write_text(to_json(record))

sys.excepthook = leave_error
plan = json.loads(pathlib.Path(os.environ["NEMOPERF_PLAN"]).read_text())
while plan["turn"] and not all((here.parent / f"pid-{{name}}").exists() for name in ("old", "new")):
    time.sleep(0.01)  # neither side may end before the other has begun
num_steps = plan["warmup_steps"] + plan["steps"]
turn = ABTurn(**plan["turn"]) if plan["turn"] and {knows_turns} else None
with open(os.environ["NEMOPERF_STEPS"], "w") as file:
    for step in steps_in_turn(turn, rank=0, num_steps=num_steps, wait_for_ranks=lambda: None):
        if step == 3:
            {at_step_3}
        with open(here.parent / "order", "a") as order:
            order.write(f"{{here.name}} {{step}} ")
        record = {{"step": step, "step_time_sec": 0.01, "tokens": plan["tokens_per_step"], "loss": 6.5}}
        print(json.dumps(record), file=file, flush=True)
"""


class TwoSides:
    """A folder with a program for each side."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runner = ABRunner(self._side("old"), self._side("new"), trees=self._trees())

    def program(self, side: str, *, at_step_3: str = "pass", knows_turns: bool = True) -> None:
        text = PROGRAM.format(at_step_3=at_step_3, knows_turns=knows_turns)
        (self.folder / side / "program.py").write_text(text)

    def run(self, *, first: str = "old", timeout_sec: float = 60) -> RoundOutput:
        plan = self._plan(timeout_sec)
        return self.runner.by_turns(
            {"old": plan, "new": plan},
            framework=CommandFramework(),
            run_dir=self.folder / "run",
            first=first,
            block_steps=2,
            on_progress=self.on_progress,
        )

    def run_launches(self, *, first: str) -> RoundOutput:
        plan = self._plan(60)
        return self.runner.by_launches(
            {"old": plan, "new": replace(plan, seed=7)},
            framework=CommandFramework(),
            run_dir=self.folder / "run",
            first=first,
            on_progress=self.on_progress,
        )

    def on_progress(self, _last: object) -> None:
        pass

    @property
    def order(self) -> str:
        return (self.folder / "order").read_text().strip()

    def lives(self, side: str) -> bool:
        return psutil.pid_exists(int((self.folder / f"pid-{side}").read_text()))

    def _side(self, name: str) -> ABSide:
        root = self.folder / name
        root.mkdir()
        origin = {"old": "main, 36db4f5", "new": "working tree"}[name]
        return ABSide(name=name, origin=origin, root=root, paths=("src",))

    def _trees(self) -> ABTrees:
        folder = self.folder.resolve()
        return ABTrees(
            new=folder / "new",
            old=folder / "old",
            state_dir=folder / "run",
            tracked=frozenset({"program.py"}),
        )

    def _plan(self, timeout_sec: float) -> Plan:
        plan = make_plan(
            framework="command",
            command=(sys.executable, str(self.folder / "new" / "program.py")),
            layouts={"cpu": Layout(gpus=1)},
            steps=4,
        )
        return replace(plan, timeout_sec=timeout_sec)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[TwoSides]:
    sides = TwoSides(tmp_path)
    sides.program("old")
    sides.program("new")
    yield sides
    sides.runner.close()


def test_both_sides_run_their_own_file_of_the_project_by_turns(sides: TwoSides) -> None:
    output = sides.run(first="new")

    assert sides.order == (
        "new 0 new 1 old 0 old 1 old 2 old 3 new 2 new 3 new 4 new 5 old 4 old 5"  # A BB AA B
    )
    assert [len(side.records) for side in (output.old, output.new)] == [6, 6]
    assert output.first == "new"


def test_a_side_that_fails_is_named_with_its_own_error_and_the_other_ends(sides: TwoSides) -> None:
    sides.program("old", at_step_3="raise ValueError('no such layer')")

    with pytest.raises(LaunchError, match=r"(?s)^old \(main, 36db4f5\): .*ValueError: no such layer"):
        sides.run()

    assert not sides.lives("new")


def test_a_side_that_is_killed_while_the_other_has_the_turn_is_the_one_named(sides: TwoSides) -> None:
    kill = "os.kill(int((here.parent / 'pid-old').read_text()), signal.SIGKILL)"
    sides.program("new", at_step_3=kill)

    with pytest.raises(LaunchError, match=r"^old \(main, 36db4f5\): .* was killed by SIGKILL"):
        sides.run()

    assert not sides.lives("new")


def test_of_two_sides_that_run_out_of_time_the_one_with_the_turn_is_named(sides: TwoSides) -> None:
    sides.program("new", at_step_3="time.sleep(1000)")

    with pytest.raises(LaunchError, match=r"^new \(working tree\): .* timed out after 2 s"):
        sides.run(timeout_sec=2)

    assert not sides.lives("new")
    assert not sides.lives("old")


def test_a_side_that_uses_the_other_sides_file_is_refused_at_once_and_both_end(sides: TwoSides) -> None:
    sides.program("old", at_step_3="os.chdir(here.parent / 'new'); time.sleep(1000)")

    with pytest.raises(RevisionError, match=r"^old \(main, 36db4f5\): its processes use the working tree: .*/new \(as"):
        sides.run()

    assert not sides.lives("old")
    assert not sides.lives("new")


def test_code_that_is_older_than_turns_is_noticed_and_not_waited_for(sides: TwoSides) -> None:
    sides.program("old", knows_turns=False)

    with pytest.raises(NoTurnsError, match=r"old \(main, 36db4f5\) does not know turns: .* while new \(working tree\)"):
        sides.run()

    assert not sides.lives("new")


def test_an_interrupt_stops_both_sides(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    sides.program("old", at_step_3="time.sleep(1000)")

    def interrupt(_last: object) -> None:
        if all((sides.folder / f"pid-{name}").exists() for name in ("old", "new")):
            raise KeyboardInterrupt

    monkeypatch.setattr(sides, "on_progress", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sides.run()

    assert not sides.lives("old")
    assert not sides.lives("new")


def test_whole_launches_follow_each_other_in_the_order_drawn(sides: TwoSides) -> None:
    sides.run_launches(first="new")
    sides.run_launches(first="old")

    names = sides.order.split()[::2]
    assert names == ["new"] * 6 + ["old"] * 12 + ["new"] * 6
