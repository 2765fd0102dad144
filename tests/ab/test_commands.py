"""Paths of the working tree in commands of the old side are replaced by those of the checkout."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_nemoperf.ab.commands import command_of, shared_data, working_directory
from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand

TRACKED = ("train.py", "conf/a.yaml", "my conf.yaml", "year=2024/day.txt", "bin/run", "src/model.py")
NEW = ("bench/new.py", "new.yaml")


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ABTrees:
    """A working tree with links to it, beside a checkout that lacks two of its files and those outside git."""
    new, old = tmp_path / "project", tmp_path / "old"
    for root, names in ((old, TRACKED), (new, (*TRACKED, *NEW, "data/tokens.bin", ".venv/bin/python", "draft.py"))):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    (tmp_path / "link").symlink_to(new)
    (tmp_path / "configs").symlink_to(new / "conf")
    (tmp_path / "project2").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = {str(folder) for name in (*TRACKED, *NEW) for folder in Path(name).parents if folder.name}
    return ABTrees(
        new=new.resolve(),
        old=old.resolve(),
        state_dir=new.resolve() / ".nemoperf",
        tracked=frozenset({*TRACKED, *NEW, *folders}),
    )


def side_of(trees: ABTrees, *paths: str, name: str = "old") -> ABSide:
    return ABSide(name=name, origin="main, 36db4f5", root=trees.old if name == "old" else trees.new, paths=paths)


def swapped(trees: ABTrees, *argv: str, name: str = "old", **env: str) -> RankCommand:
    """Return the command of a side; ``{top}`` stands for the folder of both trees."""
    top = trees.new.parent
    command = RankCommand(
        argv=tuple(word.replace("{top}", str(top)) for word in argv),
        num_processes=1,
        env={variable: value.replace("{top}", str(top)) for variable, value in env.items()},
    )
    return command_of(side_of(trees, "src", name=name), command, trees=trees)


@pytest.mark.parametrize(
    ("word", "own"),
    [
        ("{top}/project/train.py", "{top}/old/train.py"),
        ("{top}/project", "{top}/old"),
        ("--config={top}/project/conf/a.yaml", "--config={top}/old/conf/a.yaml"),
        ("-I{top}/project/src", "-I{top}/old/src"),
        ("-v{top}/project:/work:ro", "-v{top}/old:/work:ro"),
        ("cd {top}/project && python {top}/project/train.py", "cd {top}/old && python {top}/old/train.py"),
        ("cat '{top}/project/my conf.yaml'", "cat '{top}/old/my conf.yaml'"),
        ("{top}/project/my conf.yaml", "{top}/old/my conf.yaml"),
        ("--day={top}/project/year=2024/day.txt,x", "--day={top}/old/year=2024/day.txt,x"),
        ("{top}/project/bin:{top}/project/src", "{top}/old/bin:{top}/old/src"),
        ('{"path": "{top}/project/conf"}', '{"path": "{top}/old/conf"}'),
        ("file://{top}/project/conf/a.yaml", "file://{top}/old/conf/a.yaml"),
        ("@{top}/project/conf/a.yaml", "@{top}/old/conf/a.yaml"),
        ("{top}//project/./train.py", "{top}/old/./train.py"),
        ("{top}/project/conf/../train.py", "{top}/old/train.py"),
        ("{top}/project2/../project/train.py", "{top}/old/train.py"),
        ("{top}/project/conf/$NAME.yaml", "{top}/old/conf/$NAME.yaml"),
        ("{top}/project/conf/*.yaml", "{top}/old/conf/*.yaml"),
        ("{top}/project/out/log.txt", "{top}/old/out/log.txt"),
        ("{top}/link/train.py", "{top}/old/train.py"),
        ("--c={top}/configs/a.yaml", "--c={top}/old/conf/a.yaml"),
        ("cd ~/project; cd $HOME/project/conf; cd ${HOME}/link", "cd {top}/old; cd {top}/old/conf; cd {top}/old"),
    ],
)
def test_the_checkout_replaces_the_working_tree_wherever_an_argument_names_it(
    word: str, own: str, trees: ABTrees
) -> None:
    assert swapped(trees, word).argv == (own.replace("{top}", str(trees.new.parent)),)


@pytest.mark.parametrize(
    "word",
    [
        "train.py",
        "new.yaml",
        "/etc/hosts",
        "{top}/project2/train.py",
        "{top}/project-x",
        "{top}/project.bak/train.py",
        "{top}/project*",
        "{top}/project$X/train.py",
        "/elsewhere{top}/project/train.py",
        "s3://bucket{top}/project/train.py",
        "data{top}/project",
        "{top}/project/../project2",
        "{top}/project/.venv/bin/python",
        "--data={top}/project/data/tokens.bin",
        "{top}/project/data/*.bin",
        "{top}/project/.nemoperf/runs/case/plan.json",
    ],
)
def test_other_paths_and_what_git_does_not_have_stay_as_they_are(word: str, trees: ABTrees) -> None:
    assert swapped(trees, word).argv == (word.replace("{top}", str(trees.new.parent)),)


@pytest.mark.parametrize(
    ("word", "place"),
    [
        ("{top}/project/bench/new.py", "bench/new.py"),
        ("--config={top}/link/new.yaml", "new.yaml"),
        ("python {top}/project/draft.py > /dev/null", "draft.py"),
        ("--app-dir={top}/project/bench", "bench"),
    ],
)
def test_an_argument_that_names_what_the_revision_lacks_is_refused(word: str, place: str, trees: ABTrees) -> None:
    message = f"the command's arguments name .*/{place}, but the revision has no {place}, and .* perf_ab_setup"
    with pytest.raises(RevisionError, match=message):
        swapped(trees, word)


@pytest.mark.parametrize(
    ("word", "place"), [("new.py", "bench/new.py"), ("../draft.py", "draft.py"), ("--config=../new.yaml", "new.yaml")]
)
def test_a_file_that_the_revision_lacks_is_refused_by_its_relative_name_too(
    word: str, place: str, trees: ABTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trees.new / "bench")
    name = word.rpartition("=")[2]

    with pytest.raises(
        RevisionError, match=f"arguments name {name}, but the revision has no {place}, and .* perf_ab_se"
    ):
        swapped(trees, "python", word)


def test_words_that_name_no_file_of_the_working_tree_alone_are_left_to_the_program(
    trees: ABTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trees.new)
    words = ("train.py", "bench", "data/tokens.bin", "--out=log.txt", "-c", "print(1)" * 1000, "../elsewhere.py")

    assert swapped(trees, *words).argv == words


def test_a_variable_of_the_recipe_may_name_a_missing_folder_to_search_but_no_missing_file(trees: ABTrees) -> None:
    found = swapped(trees, CONF="{top}/project/conf", LIB_PATH="{top}/project/bench:{top}/project/src").env

    assert found["CONF"] == f"{trees.old}/conf"
    assert found["LIB_PATH"] == f"{trees.old}/bench:{trees.old}/src"
    for name in ("CONF", "CONF_PATH"):
        with pytest.raises(RevisionError, match=f"the recipe's {name} names .*, but the revision has no new.yaml"):
            swapped(trees, **{name: "{top}/project/new.yaml"})


def test_variables_of_this_process_are_swapped_too_and_never_refused(
    trees: ABTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{trees.new}/bin:{trees.new}/bench:{trees.new}/.venv/bin:/usr/bin")
    monkeypatch.setenv("PWD", f"{trees.new.parent}/link")
    monkeypatch.setenv("LD_PRELOAD", f"{trees.new}/new.yaml")  # to do without it would be another comparison
    monkeypatch.setenv("HOME", str(trees.new))
    monkeypatch.setenv("PYTHONPATH", f"{trees.new}/src")

    env = swapped(trees, "run").env

    assert env == {
        "PATH": f"{trees.old}/bin:{trees.old}/bench:{trees.new}/.venv/bin:/usr/bin",
        "PWD": str(trees.old),
        "PYTHONPATH": f"{trees.old}/src:{trees.old}/src",
    }


def test_a_recipes_own_python_path_comes_after_the_sides(trees: ABTrees) -> None:
    assert swapped(trees, PYTHONPATH="/recipe").env["PYTHONPATH"] == f"{trees.old}/src:/recipe"


def test_the_new_side_keeps_its_command(trees: ABTrees, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)

    command = swapped(trees, "{top}/project/bench/new.py", name="new", CONF="{top}/link/new.yaml")

    assert command.argv == (f"{trees.new}/bench/new.py",)
    assert command.env == {"CONF": f"{trees.new.parent}/link/new.yaml", "PYTHONPATH": f"{trees.new}/src"}


def test_a_copy_that_a_set_up_put_into_the_checkout_is_used(trees: ABTrees) -> None:
    (trees.old / "draft.py").touch()

    assert swapped(trees, "{top}/project/draft.py").argv == (f"{trees.old}/draft.py",)


def test_each_side_has_its_own_copy_of_the_working_directory(trees: ABTrees, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trees.new / "conf")

    assert working_directory(side_of(trees), trees=trees) == trees.old / "conf"
    assert working_directory(side_of(trees, name="new"), trees=trees) == trees.new / "conf"
    monkeypatch.chdir("/")
    assert working_directory(side_of(trees), trees=trees) == Path("/")


def test_a_working_directory_that_the_revision_lacks_is_refused(
    trees: ABTrees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trees.new / "bench")

    with pytest.raises(RevisionError, match=r"old \(main, 36db4f5\) has no folder bench, the working directory: .*"):
        working_directory(side_of(trees), trees=trees)


def test_a_folder_that_may_not_be_read_is_passed_over(trees: ABTrees) -> None:
    word = f"{'x' * 300}/y"
    assert swapped(trees, f"/{word}", os.devnull).argv == (f"/{word}", os.devnull)


def test_data_that_only_the_working_tree_has_is_told_and_nothing_else(trees: ABTrees) -> None:
    (trees.new / ".venv" / "pyvenv.cfg").touch()
    names = (".venv/bin/python", "train.py", ".venv", "data/tokens.bin", "data", "data/tokens.bin", "none.txt", "")
    command = RankCommand(argv=tuple(f"--x={trees.new}/{name}" for name in names), num_processes=1)

    assert shared_data(command, trees=trees) == [f"{trees.new}/data/tokens.bin", f"{trees.new}/data"]
