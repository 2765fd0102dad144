"""Command-line arguments of Megatron-LM, and of the launchers that start it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import PurePath
from typing import Any, Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import RecipeError, shorten

OWN_ARGUMENTS: Final = frozenset(
    {
        "save",
        "load",
        "save-interval",
        "save-retain-interval",
        "non-persistent-save-interval",
        "ckpt-step",
        "async-save",
        "use-persistent-ckpt-worker",
        "tensorboard-dir",
        "tensorboard-log-interval",
        "wandb-project",
        "wandb-entity",
        "wandb-exp-name",
        "wandb-save-dir",
        "log-interval",
        "log-throughput",
        "log-memory-interval",
        "log-progress",
        "log-energy",
        "timing-log-level",
        "timing-log-option",
        "logging-level",
        "train-iters",
        "train-samples",
        "exit-interval",
        "exit-duration-in-mins",
        "eval-iters",
        "eval-interval",
        "data-path",
        "data-cache-path",
        "vocab-file",
        "merge-file",
        "tokenizer-model",
        "per-split-data-args-path",
        "train-data-path",
        "valid-data-path",
        "test-data-path",
    }
)
"""Arguments that each run or machine has of its own: steps, logging, checkpoints and places of files."""


DROPPED: Final = (
    "save",
    "load",
    "save-interval",
    "save-retain-interval",
    "non-persistent-save-interval",
    "ckpt-step",
    "async-save",
    "use-persistent-ckpt-worker",
    "exit-interval",
    "exit-duration-in-mins",
    "wandb-project",
    "wandb-entity",
    "wandb-exp-name",
    "wandb-save-dir",
)
"""Arguments that are left out: checkpoints, which would also continue the count of steps, and ends of its own."""
STEPS: Final = ("train-iters", "train-samples")
"""Arguments that say the number of steps."""
RUN_ARGUMENTS: Final = (*DROPPED, *STEPS, "log-interval", "log-throughput", "eval-iters", "tensorboard-dir")
"""Arguments that each run sets or leaves out itself."""


_TORCHRUN: Final = ("torchrun", "torch.distributed.run", "torch.distributed.launch", "ft_launcher")
_STARTED: Final = frozenset({*_TORCHRUN, "python", "python3", "bash", "env", "numactl", "nsys", "taskset", "timeout"})
"""Programs that srun or mpirun starts, after its own options."""


class MegatronArguments:
    """Arguments by name, without their dashes; the last one of a name counts, as argparse has it.

    Args:
        values: Words after each name.
        subject: Beginning of messages.

    Attributes:
        asked: Names that were looked up.
    """

    def __init__(self, values: Mapping[str, Sequence[str]], *, subject: str) -> None:
        self.values = {name.lstrip("-").replace("_", "-"): tuple(words) for name, words in values.items()}
        self.subject = subject
        self.asked: set[str] = set()

    @classmethod
    def parsed(cls, words: Sequence[str], *, subject: str) -> MegatronArguments:
        """Return the arguments of a command line; words before the first name are left out."""
        values: dict[str, list[str]] = {}
        name = ""
        for word in words:
            if word.startswith("--") and len(word) > len("--"):
                name, _, value = word[2:].partition("=")
                name = name.replace("_", "-")
                values[name] = [value] if "=" in word else []
            elif name:
                values[name].append(word)
        return cls(values, subject=subject)

    def with_options(self, options: Mapping[str, Any]) -> MegatronArguments:
        """Return the arguments with options: true is a bare flag, false and None leave an argument out."""
        values = dict(self.values)
        for key, value in options.items():
            name = key.lstrip("-").replace("_", "-")
            if value is None or value is False:
                values.pop(name, None)
            else:
                values[name] = option_words(value)
        return MegatronArguments(values, subject=self.subject)

    def words(self) -> Iterator[str]:
        """Yield the arguments as a command line."""
        for name, words in self.values.items():
            yield f"--{name}"
            yield from words

    def __contains__(self, name: str) -> bool:
        self.asked.add(name)
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        """Return the first word of an argument; the default if it is absent or has none."""
        self.asked.add(name)
        words = self.values.get(name, ())
        return words[0] if words else default

    def count(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number >= 0.

        Raises:
            RecipeError: If the word is none.
        """
        if name not in self:
            return default
        word = self.text(name)
        number = whole_number(word)
        if number is None:
            raise RecipeError(f"{self.subject}: --{name} {shorten(word) or '(nothing)'} must be a whole number >= 0")
        return number

    def number(self, name: str, default: float) -> float:
        """Return a finite number.

        Raises:
            RecipeError: If the word is none.
        """
        if name not in self:
            return default
        word = self.text(name)
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise RecipeError(f"{self.subject}: --{name} {word or '(nothing)'} must be a number")
        return value


def option_words(value: Any) -> tuple[str, ...]:
    """Return the words of an option's value: none for true, several for a list."""
    if value is True:
        return ()
    if isinstance(value, (list, tuple)):
        return tuple(map(str, value))
    return (str(value),)


def launched_ranks(words: Sequence[str]) -> int | None:
    """Return the ranks that a launcher starts: torchrun's, srun's or mpirun's; None if it does not say them."""
    per_node = _option(words, "nproc-per-node")
    starter, options = _task_starter(words)
    tasks = _srun_tasks(options) if starter == "srun" else _whole(_option(options, "np", "n"))
    if not per_node:
        is_torchrun = any(PurePath(word).name in _TORCHRUN for word in words)
        return None if is_torchrun else tasks
    nodes = _option(words, "nnodes")
    num_nodes = whole_number(nodes or "1")
    num_per_node = whole_number(per_node)
    if num_nodes is None or num_per_node is None:
        return None
    task_nodes = _whole(_option(options, "nodes", "N"))
    if not nodes and max(tasks or 1, task_nodes or 1) > 1:  # one torchrun each, joined by variables or not at all
        return None
    return num_per_node * num_nodes


def _task_starter(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the name of srun or mpirun in a command line, and its options; empty without one."""
    for at, word in enumerate(words):
        name = PurePath(word).name
        if name in ("srun", "mpirun", "mpiexec"):
            return name, list(takewhile(lambda each: PurePath(each).name not in _STARTED, words[at + 1 :]))
    return "", []


def _srun_tasks(options: Sequence[str]) -> int | None:
    tasks = _option(options, "ntasks", "n")
    if tasks:
        return _whole(tasks)
    nodes = _whole(_option(options, "nodes", "N"))
    per_node = _option(options, "ntasks-per-node") or _option(options, "gpus-per-node").rpartition(":")[2]
    count = _whole(per_node)
    return None if nodes is None or count is None else nodes * count


def _whole(text: str) -> int | None:
    return whole_number(text) or None


def _option(words: Sequence[str], *names: str) -> str:
    """Return the value of an option, the last one that is given; empty if there is none.

    A name of one letter may have its value behind it without a space.
    """
    found = ""
    for at, word in enumerate(words):
        if not word.startswith("-"):
            continue
        name, separator, value = word.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if name in names:
            found = value if separator else " ".join(words[at + 1 : at + 2])
        elif word[1:2] in names and word[2:].isdecimal():
            found = word[2:]
    return found


def split_launch(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Return a command line's launcher, its Python script, and the words after the script."""
    for at, word in enumerate(words):
        if word.endswith(".py") and not word.startswith("-") and PurePath(word).name != "torchrun.py":
            return list(words[:at]), word, list(words[at + 1 :])
    return list(words), "", []
