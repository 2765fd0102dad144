"""The rule of before, from the history: a tolerance was the smallest loss that matters, and half of it harmless.

It knew one scatter, that between launches, and nothing was compared side by side.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

_COMMIT = "642ead0098e3bf219a46e429d38f46368e25f487"
"""The last one with that rule."""
_FILE = "src/pytest_nemoperf/verdict/sequential.py"
OLD_TOLERANCES_PCT = {"h100": 5.0, "cpu": 20.0}
"""Defaults of that commit, by system."""


@cache
def load_old_rule() -> ModuleType | None:
    """Return the module of the rule of before; None where the history is not at hand."""
    command = ["git", "-C", str(Path(__file__).parent), "show", f"{_COMMIT}:{_FILE}"]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    if found.returncode:
        return None
    module = ModuleType("old_sequential")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(found.stdout, _FILE, "exec"), module.__dict__)  # noqa: S102 (the repository's own history)
    return module
