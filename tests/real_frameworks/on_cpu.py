"""Frameworks as tests run them on a CPU: the real packages, started through programs that replace what needs a GPU."""

from __future__ import annotations

from pathlib import Path

from pytest_nemoperf.frameworks.automodel import AutomodelFramework

_SHIMS = Path(__file__).parent / "shims"


class AutomodelOnCPU(AutomodelFramework):
    """NeMo Automodel; shims/automodel.py says what is replaced."""

    devices = ("cpu",)
    program = (str(_SHIMS / "automodel.py"), *AutomodelFramework.program)

    @property
    def name(self) -> str:
        return "automodel_cpu"
