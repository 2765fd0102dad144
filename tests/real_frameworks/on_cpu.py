"""Frameworks as tests run them on a CPU: the real packages, started through programs that replace what needs a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.automodel import AutomodelFramework
from pytest_nemoperf.frameworks.megatron import MegatronFramework
from pytest_nemoperf.frameworks.torchtitan import TorchtitanFramework

_SHIMS: Final = Path(__file__).parent / "shims"


class AutomodelOnCPU(AutomodelFramework):
    """NeMo Automodel; shims/automodel.py says what is replaced."""

    devices = ("cpu",)
    program = (str(_SHIMS / "automodel.py"), *AutomodelFramework.program)

    @property
    def name(self) -> str:
        return "automodel_cpu"


class MegatronOnCPU(MegatronFramework):
    """Megatron-Core; shims/megatron.py says what is replaced."""

    devices = ("cpu",)
    program = (str(_SHIMS / "megatron.py"), *MegatronFramework.program)

    @property
    def name(self) -> str:
        return "megatron_cpu"


class TorchtitanOnCPU(TorchtitanFramework):
    """torchtitan through its shim; the docstring of the shim says what it replaces."""

    devices = ("cpu",)
    program = (str(_SHIMS / "torchtitan_cpu.py"), *TorchtitanFramework.program)

    @property
    def name(self) -> str:
        """Name in recipes."""
        return "torchtitan_cpu"
