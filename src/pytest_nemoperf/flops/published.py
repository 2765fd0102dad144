"""Published performance tables: catalog models of printed names, and conventions of printed FLOPs.

Both are data (``catalog/published.json``). A row's convention follows from its source, its release, the task of its
table and the model's family (sources have one formula a family), never from the row's own numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model

Task = Literal["pretrain", "sft", "lora"]

_LATEST = (9999,)  # "main": younger than every release
_RELEASE = re.compile(r"\d{1,9}(?:[.-]\d{1,9}){,9}")
_CONTAINER = re.compile(r"\((\d+\.\d+)\)")  # Automodel prints a row's container behind the model
_WITHOUT_MTP = re.compile(r"w/o mtp", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ConventionRule:
    """Rows to which a convention applies; the first matching rule counts.

    Attributes:
        source: Part of the source's repository or site.
        convention: Name of the convention.
        since: First release; empty for the first there is.
        tasks: Tasks of the table; empty for all.
        families: Beginnings of catalog names; empty for all.
    """

    source: str
    convention: str
    since: str = ""
    tasks: Sequence[Task] = ()
    families: Sequence[str] = ()

    def applies(self, *, source: str, release: str, task: Task, model: str) -> bool:
        """Whether the convention applies to a row of that source, release, task and catalog model."""
        return (
            self.source.lower() in source.lower()
            and _version(self.since) <= _version(release)
            and (not self.tasks or task in self.tasks)
            and (not self.families or model.startswith(tuple(self.families)))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    models: Sequence[tuple[re.Pattern[str], str]]
    rules: Sequence[_ConventionRule]
    whole_sequences: Sequence[tuple[str, Sequence[str]]]


def find_published_model(printed: str) -> ModelConfig:
    """Return the catalog model of a printed name, e.g. ``LLAMA3.1_405B`` or ``DeepSeekV3 (w/o MTP)``.

    Raises:
        RecipeError: If no catalog model is printed like that.
    """
    for pattern, name in _published().models:
        if pattern.search(printed):
            model = find_model(name)
            if _WITHOUT_MTP.search(printed):
                model = replace(model, mtp_num_layers=0)
            return model
    raise RecipeError(f"no catalog model is printed as {printed!r}; add a pattern to catalog/published.json")


def published_convention(source: str, *, release: str, printed_model: str, task: Task = "pretrain") -> str:
    """Return the name of the convention a published row was counted under.

    Args:
        source: Repository or site of the page, e.g. ``NVIDIA-NeMo/Megatron-Bridge``.
        release: As the page names it, e.g. ``26.04.01``, ``NeMo24.07``, ``main``. A release without a rule of its
            own takes the last one before it.
        printed_model: As the page names it; a container in parentheses behind it is the row's release.
        task: Task of the table.

    Raises:
        RecipeError: If nothing is known about the source, or the model is not in the catalog.
    """
    container = _CONTAINER.search(printed_model)
    row_release = container.group(1) if container else release
    model = find_published_model(printed_model).name
    for rule in _published().rules:
        if rule.applies(source=source, release=row_release, task=task, model=model):
            return rule.convention
    raise RecipeError(f"no rule for the FLOPs of {source} {release}; add one to catalog/published.json")


def prints_whole_sequences(source: str, *, release: str) -> bool:
    """Whether a table's tokens/sec/GPU come from a throughput that was rounded to whole sequences per second.

    Such a table's tokens/sec/GPU is known to half a sequence per second over all GPUs, not to half a token.
    """
    return any(part in source and release in releases for part, releases in _published().whole_sequences)


@cache
def _published() -> _Published:
    text = resources.files("pytest_nemoperf").joinpath("catalog", "published.json").read_text(encoding="utf-8")
    data = json.loads(text)
    models = []
    for pattern, name in data["models"]:
        models.append((re.compile(pattern, re.IGNORECASE), name))
    rules = [_ConventionRule(**rule) for rule in data["rules"]]
    whole_sequences = []
    for entry in data["whole_sequences"]:
        whole_sequences.append((entry["source"], entry["releases"]))
    return _Published(models=models, rules=rules, whole_sequences=whole_sequences)


def _version(release: str) -> tuple[int, ...]:
    """Return a release as numbers to compare; a name without numbers is the newest, an empty one the oldest."""
    if not release:
        return ()
    numbers = _RELEASE.search(release)
    if numbers is None:
        return _LATEST
    return tuple(map(int, re.split(r"[.-]", numbers.group())))
