from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.frameworks.configs.megatron_arguments import MegatronArguments, launched_ranks, split_launch


def parsed(text: str) -> MegatronArguments:
    return MegatronArguments.parsed(text.split(), subject="x.sh")


def test_a_command_line_is_taken_apart() -> None:
    arguments = parsed("train.py --num-layers 4 --swiglu --data_path a b --seq-length=64 --lr -1e-5 --num-layers 8")

    assert arguments.values == {
        "num-layers": ("8",),
        "swiglu": (),
        "data-path": ("a", "b"),
        "seq-length": ("64",),
        "lr": ("-1e-5",),
    }
    assert "swiglu" in arguments
    assert arguments.text("data-path") == "a"
    assert arguments.text("swiglu", "default") == "default"


def test_the_words_are_the_arguments_again() -> None:
    text = "--num-layers 8 --swiglu --data-path a b"

    assert " ".join(parsed(text).words()) == text


def test_options_set_and_leave_out() -> None:
    arguments = parsed("--num-layers 8 --swiglu --bf16").with_options(
        {"--num_layers": 4, "swiglu": None, "bf16": False, "overlap-grad-reduce": True, "data-path": ["a", "b"]}
    )

    assert " ".join(arguments.words()) == "--num-layers 4 --overlap-grad-reduce --data-path a b"


@pytest.mark.parametrize(
    ("text", "read", "told"),
    [
        pytest.param("--a x", lambda a: a.count("a"), "x.sh: --a x must be a whole number >= 0", id="a text"),
        pytest.param("--a", lambda a: a.count("a"), "x.sh: --a (nothing) must be a whole number >= 0", id="no word"),
        pytest.param("--a x", lambda a: a.number("a", 1.0), "x.sh: --a x must be a number", id="no number"),
        pytest.param("--a nan", lambda a: a.number("a", 1.0), "x.sh: --a nan must be a number", id="not a number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(text: str, read: Any, told: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(parsed(text))

    assert str(caught.value) == told


def test_numbers_are_read() -> None:
    arguments = parsed("--a 4 --b 1e-5")

    assert (arguments.count("a"), arguments.count("none", 3), arguments.count("none")) == (4, 3, None)
    assert (arguments.number("b", 1.0), arguments.number("none", 2.0)) == (1e-5, 2.0)


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        pytest.param("torchrun --nproc-per-node 8 --nnodes=2", 16, id="two nodes"),
        pytest.param("torchrun --nproc_per_node=4", 4, id="one node"),
        pytest.param("torchrun --nproc_per_node gpu", None, id="as many as there are"),
        pytest.param("torchrun --nnodes 1:4 --nproc_per_node 8", None, id="elastic"),
        pytest.param("torchrun --nproc_per_node", None, id="nothing"),
        pytest.param("torchrun --nnodes 2", None, id="nodes alone"),
        pytest.param("python", None, id="another launcher"),
        pytest.param("torchrun", None, id="torchrun's own"),
        pytest.param("srun torchrun --nproc_per_node=gpu --nnodes 2", None, id="as many as there are on two nodes"),
        pytest.param("srun --nodes=2 --ntasks-per-node=8 python -u", 16, id="srun by nodes"),
        pytest.param("srun -N 2 --ntasks-per-node 4 --gpus-per-node 8 python", 8, id="srun by tasks of a node"),
        pytest.param("srun -N2 --gpus-per-node=h100:8 python", 16, id="srun by GPUs of a node"),
        pytest.param("srun -n 16 -J name python", 16, id="srun by tasks"),
        pytest.param("srun --ntasks=16 -N 2 numactl -N 0 python", 16, id="options of what srun starts"),
        pytest.param("srun -N 1-2 --ntasks-per-node=8 python", None, id="srun of any number of nodes"),
        pytest.param("srun --gpus-per-node=8 python", None, id="srun with the nodes of its job"),
        pytest.param("srun python", None, id="srun with all of its job"),
        pytest.param(
            "srun -N 2 --ntasks-per-node=1 torchrun --nnodes 2 --nproc_per_node 8", 16, id="torchrun under srun"
        ),
        pytest.param("srun -N 2 --ntasks-per-node=1 torchrun --nproc_per_node 8", None, id="torchrun of one node each"),
        pytest.param("srun -N 2 torchrun --nproc_per_node 8", None, id="torchrun on each node of srun"),
        pytest.param("srun torchrun --nproc_per_node 8", 8, id="torchrun on srun's only node"),
        pytest.param("mpirun -np 8 python", 8, id="mpirun"),
    ],
)
def test_ranks_are_those_of_the_launcher(text: str, ranks: int | None) -> None:
    assert launched_ranks(text.split()) == ranks


def test_a_launch_has_launcher_script_and_arguments() -> None:
    words = "torchrun --nproc_per_node 8 ./pretrain_gpt.py --num-layers 8 --tool x.py".split()

    assert split_launch(words) == (words[:3], "./pretrain_gpt.py", words[4:])
    assert split_launch(["srun", "--x"]) == (["srun", "--x"], "", [])
