"""A framework's own recipe file: its values for a plan, and the protocol of its readers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.rl import RL

_DIGEST_LENGTH = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigValues:
    """Values of a recipe that a framework's own recipe file says.

    Attributes:
        digest: Hash of the resolved content without what each run sets (steps, logging, checkpoints), hexadecimal.
        model: Catalog name, path of a Hugging Face ``config.json``, or a ModelConfig; empty if it can't be read.
        gpus: Ranks that train; None if the file leaves them to the launch.
        degrees: Degrees by name of a Layout's attribute, ``dp_shard`` or ``dp_replicate`` set to 0 for the axis that
            takes the ranks that are left; ``shard_optimizer`` counts where weights have copies; empty if they can't
            be read.
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

    def read_config(self, path: Path, *, options: Mapping[str, Any], env: Mapping[str, str]) -> ConfigValues:
        """Return the values of a recipe file for a plan, the options on top of it.

        Args:
            path: The file, as the recipe gives it: ``x.py:function`` for one function of a file.
            options: The recipe's framework_options.
            env: Variables that the recipe sets, on top of this process's own.

        Raises:
            RecipeError: If the file can't be read or is not of this framework.
        """
        ...


def config_digest(content: Any, *, without: Collection[str] = ()) -> str:
    """Return a hash of a recipe file's resolved content.

    Args:
        content: Plain data; mappings may have keys in any order.
        without: Dotted paths of settings that each run has of its own: steps, logging, checkpoints.
    """
    kept = _without(content, paths=without, prefix="")
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:_DIGEST_LENGTH]


def _without(node: Any, *, paths: Collection[str], prefix: str) -> Any:
    if isinstance(node, Mapping):
        kept = {}
        for key, value in node.items():
            path = f"{prefix}{key}"
            if path not in paths:
                kept[str(key)] = _without(value, paths=paths, prefix=f"{path}.")
        return kept
    if isinstance(node, (list, tuple)):
        return [_without(value, paths=(), prefix="") for value in node]
    return node


def shown_config(path: Path) -> str:
    """Return the beginning of a message about a recipe file, by the name that the recipe gives it."""
    return f"framework_config={path}"
