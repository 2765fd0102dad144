"""Targets by name, and the readers that they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.fuzz.contracts import CONTRACTS
from tests.fuzz.logs import LOGS
from tests.fuzz.option_texts import option_text
from tests.fuzz.sources import SOURCES
from tests.fuzz.target import Target

TARGETS: Final[Mapping[str, Callable[[Path], Target]]] = MappingProxyType(
    {**CONTRACTS, **SOURCES, **LOGS, "options": option_text}
)
"""Targets by name; each sets up its files in an empty folder."""

_SHARED: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        "megatron": ("megatron yaml", "megatron words"),
        "ini": ("pyproject", "pytest.ini"),
        "log text": ("log text", "log megatron", "log megatron_bridge", "log torchtitan", "log automodel_console"),
        "log dict": ("log dict", "log trl_console"),
        "log jsonl": ("log jsonl", "log automodel"),
    }
)
"""Readers that have several targets: formats that one parser reads."""

READERS: Final[Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        **{name: (name,) for name in TARGETS if not any(name in names for names in _SHARED.values())},
        **_SHARED,
    }
)
"""Targets of each reader; its inputs are shared out among them."""
