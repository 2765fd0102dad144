"""Import everything a rank needs, for processes that ranks are forked from: no device, no threads."""

from __future__ import annotations

import os

# torch brings numpy, whose OpenBLAS starts its threads at import; a process that forks must have none, and ranks don't
# use it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import torch

import pytest_nemoperf.native.rank.entry  # noqa: F401 (the import is the point)

# torch imports the rest in the first compilation, optimizer, mesh and step: more than a second, if each rank has to do
# it. These calls have it do so here.
torch.compiler.reset()
with torch.device("meta"):
    pass
