"""A framework's own recipe file: what a plan takes from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.rl import RL


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigValues:
    """Values of a recipe that a framework's own recipe file says.

    Attributes:
        digest: Hash of the resolved content without what each run sets (steps, logging, checkpoints), hexadecimal.
        model: Catalog name, path of a Hugging Face ``config.json``, or a ModelConfig; empty if it can't be read.
        gpus: Ranks that train; None if the file leaves them to the launch.
        degrees: Degrees by name of a Layout's attribute, ``dp_shard`` or ``dp_replicate`` set to 0 for the axis that
            takes the ranks that are left; empty if they can't be read.
        generation: Attributes of the GenerationLayout by name; empty without one.
        values: Other values by name of a Recipe's attribute: ``seq_len``, ``global_batch_size``,
            ``micro_batch_size``, ``precision``, ``recompute``, ``is_compiled`` ...
        rl: Reinforcement learning; None for pre-training.
        unread: Reason by name of a Recipe's attribute that the file doesn't say in a form that can be read.
    """

    digest: str
    model: str | ModelConfig = ""
    gpus: int | None = None
    degrees: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    rl: RL | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class ConfigReader(Protocol):
    """Framework that runs recipe files of its own."""

    def read_config(self, path: Path, *, options: Mapping[str, Any]) -> ConfigValues:
        """Return what a plan takes from a recipe file, the options on top of it.

        Raises:
            RecipeError: If the file can't be read or is not of this framework.
        """
        ...
