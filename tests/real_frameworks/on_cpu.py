"""Frameworks as tests run them on a CPU: the real packages, started through programs that replace what needs a GPU."""

from __future__ import annotations

from pathlib import Path

from pytest_nemoperf.frameworks.megatron import MegatronFramework

_SHIMS = Path(__file__).parent / "shims"


class MegatronOnCPU(MegatronFramework):
    """Megatron-Core; shims/megatron.py says what is replaced."""

    devices = ("cpu",)
    program = (str(_SHIMS / "megatron.py"), *MegatronFramework.program)

    @property
    def name(self) -> str:
        return "megatron_cpu"
