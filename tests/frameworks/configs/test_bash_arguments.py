from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import PlanError, RecipeError
from pytest_nemoperf.frameworks.configs import bash_arguments
from pytest_nemoperf.frameworks.configs.bash_arguments import edited_launch, read_script, was_edited
from tests.frameworks.megatron_files import SCRIPT, write_text


def read(text: str, *, folder: Path, **arguments: Any) -> list[str]:
    """Return the command line that a script with that text comes to."""
    path = write_text(folder / "train.sh", text)
    values: dict[str, Any] = {"words": [], "directory": folder, "env": {}, "marks": ["--num-layers"], "subject": "x.sh"}
    return list(read_script(path, **{**values, **arguments}))


def test_conditions_arrays_and_defaults_are_bash_s(tmp_path: Path) -> None:
    words = read(SCRIPT, folder=tmp_path, words=["2"], env={"GPUS_PER_NODE": "4", "FORMAT": "fp8"})

    assert words[:5] == ["torchrun", "--nproc_per_node", "4", "pretrain_gpt.py", "--num-layers"]
    assert "--sequence-parallel" in words
    assert words[-5:] == ["--fp8-recipe", "tensorwise", "--bf16", "--tensor-model-parallel-size", "2"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param('python t.py --num-layers 1 "$@"', ["python", "t.py", "--num-layers", "1", "a b"], id="arguments"),
        pytest.param(
            "A=1 python t.py --num-layers 1", ["python", "t.py", "--num-layers", "1"], id="a variable before it"
        ),
        pytest.param(
            "exec python t.py --num-layers 1", ["python", "t.py", "--num-layers", "1"], id="in place of the shell"
        ),
        pytest.param(
            "nohup python t.py --num-layers 1 &> log &",
            ["python", "t.py", "--num-layers", "1"],
            id="in the background",
        ),
        pytest.param(
            "timeout -k 5 2h nice -n 5 env -u B A=1 stdbuf -oL python t.py --num-layers 1",
            ["python", "t.py", "--num-layers", "1"],
            id="behind others",
        ),
        pytest.param("timeout 2h bash inner.sh 7", ["python", "t.py", "--num-layers", "7"], id="a script behind one"),
        pytest.param("time python t.py --num-layers 1", ["python", "t.py", "--num-layers", "1"], id="with its time"),
        pytest.param(
            "env A=1 /opt/no/python t.py --num-layers 1", ["env", "A=1", "/opt/no/python"], id="a path behind"
        ),
        pytest.param(
            "A=1 /opt/no/python t.py --num-layers 1", ["/opt/no/python", "t.py"], id="a path after a variable"
        ),
        pytest.param("exec /opt/no/python t.py --num-layers 1", ["/opt/no/python", "t.py"], id="a path in its place"),
        pytest.param("$(which python) t.py --num-layers 1", ["python", "t.py", "--num-layers"], id="a path looked up"),
        pytest.param("launch python t.py --num-layers 1", ["launch", "python", "t.py"], id="a launcher of their own"),
        pytest.param(
            "exec > >(tee log) 2>&1\ngit log\npython t.py --num-layers 1",
            ["python", "t.py", "--num-layers", "1"],
            id="a log of everything",
        ),
        pytest.param(
            "python t.py --num-layers 1\nx=$(git log)", ["python", "t.py", "--num-layers", "1"], id="questions after it"
        ),
        pytest.param(
            "python t.py --num-layers 1 2>&1 | tee log", ["python", "t.py", "--num-layers", "1"], id="through a pipe"
        ),
        pytest.param(
            "srun -N 2 bash -c 'cd / && torchrun t.py --num-layers 1'",
            ["srun", "-N", "2", "bash", "-c", "cd / && torchrun t.py --num-layers 1"],
            id="by a scheduler",
        ),
        pytest.param("P=/opt/no/bin\n$P/torchrun t.py --num-layers 1", ["/opt/no/bin/torchrun", "t.py"], id="a path"),
        pytest.param(
            'P="/o p/python"\n"$P" t.py --num-layers "1 > 2" \'x > y\' > log',
            ["/o p/python", "t.py", "--num-layers", "1 > 2", "x > y"],
            id="quotes",
        ),
        pytest.param("./inner.sh 7", ["python", "t.py", "--num-layers", "7"], id="another script"),
        pytest.param("bash inner.sh 7", ["python", "t.py", "--num-layers", "7"], id="another bash"),
        pytest.param("source inner.sh 7", ["python", "t.py", "--num-layers", "7"], id="a script read in"),
        pytest.param(
            "false\npython prepare.py\npython t.py --num-layers 1", ["python", "t.py", "--num-layers", "1"], id="steps"
        ),
    ],
)
def test_a_launch_is_found_however_it_is_written(tmp_path: Path, line: str, words: list[str]) -> None:
    write_text(tmp_path / "inner.sh", "#!/bin/bash\npython t.py --num-layers $1\n").chmod(0o755)

    found = read(f"#!/bin/bash\nset -e\n{line}\n", folder=tmp_path, words=["a b"])

    assert found[: len(words)] == words


def test_nothing_is_started_or_written(tmp_path: Path) -> None:
    program = write_text(tmp_path / "program", "#!/bin/sh\ntouch started\n")
    program.chmod(0o755)
    kept = write_text(tmp_path / "kept", "kept")
    text = """
mkdir out; rm kept; cp kept copy; touch new; pip install x; git init .
echo gone > kept
echo more >> kept
printf new > made
cat > args <<END
text
END
./program
"$PWD/program"
python -c "open('by-python', 'w')"
python train.py --num-layers 1 > log 2>&1
"""

    read(text, folder=tmp_path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kept", "program", "train.sh"]
    assert kept.read_text(encoding="utf-8") == "kept"


def test_programs_that_change_files_are_not_run(tmp_path: Path) -> None:
    write_text(tmp_path / "kept", "kept")
    text = """
sed -i s/kept/gone/ kept; find . -name kept -delete; awk 'BEGIN { print > "made" }'; env rm kept; timeout 9 rm kept
exec_path="$PWD/program"; A=1 "$exec_path"; command "$exec_path"; timeout 9 "$exec_path"
python train.py --num-layers 1
"""
    write_text(tmp_path / "program", "#!/bin/sh\ntouch started\n").chmod(0o755)

    read(text, folder=tmp_path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kept", "program", "train.sh"]
    assert (tmp_path / "kept").read_text(encoding="utf-8") == "kept"


@pytest.mark.parametrize(
    ("line", "program"),
    [
        pytest.param("GBS=$(python -c 'print(64)')", "python -c print(64)", id="python"),
        pytest.param("GPUS=$(nvidia-smi -L | wc -l)", "nvidia-smi -L", id="nvidia-smi"),
        pytest.param("GBS=`echo 2*8 | bc`", "bc", id="bc"),
        pytest.param("mapfile -t HOSTS < <(scontrol show hostnames x)", "scontrol show hostnames x", id="scontrol"),
        pytest.param("OUT=$(mktemp -d)", "mktemp -d", id="mktemp"),
        pytest.param("NAME=$(sed -n 1p layers)", "sed -n 1p layers", id="sed"),
        pytest.param("git rev-parse HEAD | while read -r it; do A=$it; done", "git rev-parse HEAD", id="a pipe"),
        pytest.param("NAME=$(our-program --ask)", "our-program --ask", id="unknown"),
        pytest.param("NAME=$(./program)", "./program", id="a path"),
        pytest.param("NAME=$(timeout 5 python ask.py)", "python ask.py", id="behind another"),
    ],
)
def test_a_script_that_needs_the_output_of_a_program_that_is_not_run_is_refused(
    tmp_path: Path, line: str, program: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(f"{line}\npython train.py --num-layers ${{GBS:-8}}\n", folder=tmp_path)

    assert str(caught.value) == (
        f"x.sh takes the output of {program}, and {program.partition(' ')[0]} is not run while a script is read, so "
        "that its arguments can't be told; give the training's own arguments as YAML or text, or let the script take "
        "that value from a variable and give it in env"
    )


def test_a_script_with_several_trainings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"x\.sh starts 2 trainings, and a run measures one; give the arguments of"):
        read("for n in 1 2; do torchrun t.py --num-layers $n; done\n", folder=tmp_path)


def test_comparisons_are_no_redirections(tmp_path: Path) -> None:
    text = "if [[ b > a ]] && ((2 > 1)); then python t.py --num-layers 1; fi\n"

    assert read(text, folder=tmp_path) == ["python", "t.py", "--num-layers", "1"]


def test_a_script_can_look_at_its_machine(tmp_path: Path) -> None:
    write_text(tmp_path / "layers", "5\n")
    text = 'cd "$(dirname "$0")"\nN=$(cat layers 2> /dev/null)\npython t.py --num-layers $N --at "$PWD"\n'

    assert read(text, folder=tmp_path)[3:] == ["5", "--at", str(tmp_path)]


def test_a_script_that_starts_no_training_is_told_what_it_did(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read("echo 'set DATA first'\npython prepare.py\nsrun hostname\n", folder=tmp_path)

    assert str(caught.value) == (
        "x.sh came to no command line with --num-layers, it started python and srun and said: set DATA first; give its "
        "arguments in framework_options={'script_args': [...]} and its variables in env, or the training's own "
        "arguments as YAML or text"
    )


def test_a_script_that_does_not_end_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bash_arguments, "_LIMIT_SEC", 0.5)

    with pytest.raises(RecipeError, match=r"x\.sh did not come to its training within 0 s; give the training's own"):
        read("while true; do :; done\n", folder=tmp_path)


def test_a_machine_without_bash_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)

    with pytest.raises(RecipeError, match=r"x\.sh is a shell script, and there is no bash here to read it"):
        read("true\n", folder=tmp_path)


def run_edited(text: str, *, folder: Path, added: list[str], dropped: list[str]) -> list[list[str]]:
    """Return the words that each program of a script was started with, one that ran with other arguments."""
    programs = folder / "real"
    notes = folder / "notes"
    for name in ("torchrun", "python"):
        write_text(programs / name, f'#!/bin/sh\nprintf "%s\\n" "${{0##*/}}" "$@" . >> {notes}\n').chmod(0o755)
    env = {"PATH": f"{programs}:{os.environ['PATH']}"}
    variables = edited_launch(folder / "launch", training="train.py", dropped=dropped, added=added, env=env)
    path = write_text(folder / "train.sh", text)
    subprocess.run(["bash", str(path)], check=True, cwd=folder, env={**os.environ, **env, **variables})
    return [block.split("\n") for block in notes.read_text(encoding="utf-8").strip().removesuffix(".").split("\n.\n")]


def test_a_training_is_started_with_other_arguments(tmp_path: Path) -> None:
    text = "python prepare.py --save x\ntorchrun --nproc 2 dir/train.py --save /out --lr 1 --load /in /more --bf16\n"

    started = run_edited(
        text, folder=tmp_path, added=["--train-iters", "13", "--name", "a b"], dropped=["--save", "--load"]
    )

    assert started[0] == ["python", "prepare.py", "--save", "x"]
    assert [word for word in started[1] if word] == [
        *("torchrun", "--nproc", "2", "dir/train.py", "--lr", "1", "--bf16", "--train-iters", "13", "--name", "a b")
    ]


def test_a_search_path_that_the_script_sets_does_not_go_around_it(tmp_path: Path) -> None:
    text = f"export PATH={tmp_path / 'real'}:$PATH\npython train.py --save=x --lr 1\n"

    started = run_edited(text, folder=tmp_path, added=["--log-interval", "1"], dropped=["--save"])

    assert [word for word in started[0] if word] == ["python", "train.py", "--lr", "1", "--log-interval", "1"]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("export PATH={real}:$PATH\nexec python", id="exported, in place of the shell"),
        pytest.param("set -euo pipefail; PATH={real}\ncommand python", id="replaced"),
        pytest.param("PATH={real} python", id="for one command"),
        pytest.param("source activate\ntimeout 60 python", id="by a file that is read in"),
        pytest.param('train() {{ PATH={real}; exec python "$@"; }}\ntrain', id="in a function"),
        pytest.param("bash inner.sh", id="in another script"),
    ],
)
def test_the_wrappers_stay_first_in_the_search_path(tmp_path: Path, line: str) -> None:
    real = tmp_path / "real"
    write_text(tmp_path / "activate", f"export PATH={real}:$PATH\n")
    write_text(tmp_path / "inner.sh", f'PATH={real}:/usr/bin:/bin\nexec python "$@"\n')

    started = run_edited(
        f"#!/bin/bash\n{line.format(real=real)} train.py --save x --lr 1\n",
        folder=tmp_path,
        added=["--bf16"],
        dropped=["--save"],
    )

    assert [[word for word in words if word] for words in started] == [["python", "train.py", "--lr", "1", "--bf16"]]
    assert was_edited(tmp_path / "launch")


def test_a_launch_around_the_wrappers_leaves_no_mark(tmp_path: Path) -> None:
    started = run_edited(f"{tmp_path}/real/python train.py --lr 1\n", folder=tmp_path, added=["--bf16"], dropped=[])

    assert [word for word in started[0] if word] == ["python", "train.py", "--lr", "1"]
    assert not was_edited(tmp_path / "launch")


def test_a_word_with_a_line_break_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="holds a line break; arguments of a shell script are one line each"):
        edited_launch(tmp_path / "launch", training="train.py", dropped=[], added=["a\nb"], env={})


def test_a_script_that_prints_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train.sh"
    path.write_text("yes\n")

    with pytest.raises(RecipeError, match=r"came to no command line with pretrain and said: y\ny"):
        read_script(path, words=(), directory=tmp_path, env={}, marks=("pretrain",), subject="train.sh")
