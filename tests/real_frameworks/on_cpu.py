"""Frameworks whose tests run on a CPU: the same adapters, started through shims that live here alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.torchtitan import TorchtitanFramework

_SHIMS: Final = Path(__file__).parent / "shims"


class TorchtitanOnCPU(TorchtitanFramework):
    """torchtitan through its shim; the docstring of the shim says what it replaces."""

    devices = ("cpu",)
    program = (str(_SHIMS / "torchtitan_cpu.py"), *TorchtitanFramework.program)

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "torchtitan_cpu"
