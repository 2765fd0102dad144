"""Import everything a rank needs, for processes that ranks are forked from: no device, no threads."""

from __future__ import annotations

import os
from contextlib import suppress

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.fast_paths import fast_path_environment

# torch brings numpy, whose OpenBLAS starts its threads at import; a process that forks must have none, and ranks don't
# use it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Libraries may read them when they are imported. A wrong list is an error of the rank, which reads it again.
with suppress(PlanError):
    os.environ.update(fast_path_environment(os.environ))

import torch

import pytest_nemoperf.native.rank.entry  # noqa: F401 (the import is the point)

# torch imports the rest in the first compilation, optimizer, mesh and step: more than a second, if each rank has to do
# it. These calls have it do so here.
torch.compiler.reset()
with torch.device("meta"):
    pass
