"""Names of frameworks for people: those that run plans here, and those of published rows."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

_TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "automodel": "Automodel",
        "dfm": "DFM",
        "maxtext": "MaxText",
        "megatron": "Megatron-Core",
        "megatron_bridge": "Megatron-Bridge",
        "megatron_lm": "Megatron-LM",
        "nemo": "NeMo",
        "nemo_rl": "NeMo RL",
        "paxml": "PaxML",
        "torch": "Native Engine",
        "trl": "TRL",
    }
)


def framework_title(name: str) -> str:
    """Return a framework's name as pages print it; the name itself for one that is not known."""
    return _TITLES.get(name, name)
