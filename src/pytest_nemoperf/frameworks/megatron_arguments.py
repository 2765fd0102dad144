"""Command-line arguments of Megatron-LM, and of the launchers that start it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError

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


class MegatronArguments:
    """Arguments by name, without their dashes; the last one of a name counts, as argparse has it.

    Args:
        values: Words after each name.
        subject: Beginning of messages.
    """

    def __init__(self, values: Mapping[str, Sequence[str]], *, subject: str) -> None:
        self.values = {name.lstrip("-").replace("_", "-"): tuple(words) for name, words in values.items()}
        self.subject = subject

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
        return name in self.values

    def text(self, name: str, default: str = "") -> str:
        """Return the first word of an argument; the default if it is absent or has none."""
        words = self.values.get(name, ())
        return words[0] if words else default

    def count(self, name: str, default: int | None = None) -> int | None:
        """Return a whole number >= 0.

        Raises:
            RecipeError: If the word is none.
        """
        if name not in self.values:
            return default
        word = self.text(name)
        if not word.isdecimal():
            raise RecipeError(f"{self.subject}: --{name} {word or '(nothing)'} must be a whole number >= 0")
        return int(word)

    def number(self, name: str, default: float) -> float:
        """Return a finite number.

        Raises:
            RecipeError: If the word is none.
        """
        if name not in self.values:
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
    """Return the ranks that a torchrun command line starts; None if it does not say them."""
    ranks = 1
    found = False
    for at, word in enumerate(words):
        name, separator, value = word.partition("=")
        name = name.lstrip("-").replace("_", "-")
        if name not in ("nproc-per-node", "nnodes"):
            continue
        if not separator:
            value = words[at + 1] if at + 1 < len(words) else ""
        if not value.isdecimal():
            return None
        ranks *= int(value)
        found = found or name == "nproc-per-node"
    return ranks if found else None


def split_launch(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Return a command line's launcher, its Python script, and the words after the script."""
    for at, word in enumerate(words):
        if word.endswith(".py") and not word.startswith("-") and PurePath(word).name != "torchrun.py":
            return list(words[:at]), word, list(words[at + 1 :])
    return list(words), "", []
