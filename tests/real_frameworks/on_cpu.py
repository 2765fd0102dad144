"""Frameworks as tests run them on a CPU: the real packages, started through programs that replace what needs a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.automodel import AutomodelFramework
from pytest_nemoperf.frameworks.megatron import MegatronFramework
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.frameworks.torchtitan import TorchtitanFramework
from pytest_nemoperf.recipes.recipe import Plan

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
        return "torchtitan_cpu"

    def command(self, plan: Plan, *, run_dir: Path) -> RankCommand:
        # FSDP by the default, spmd_types, asks for a device that is not a CPU.
        options = {"parallelism.spmd_backend": "partial_dtensor", **plan.framework_options}
        return super().command(replace(plan, framework_options=options), run_dir=run_dir)
