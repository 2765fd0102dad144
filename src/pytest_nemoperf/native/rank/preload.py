"""Import everything a rank needs, for processes that ranks are forked from: no device, no threads."""

from __future__ import annotations

import os

# torch brings numpy, whose OpenBLAS starts its threads at import; a process that forks must have none, and ranks don't
# use it.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# torch itself imports these in the first optimizer, mesh and step: more than a second, if each rank has to do it.
import torch._dynamo
import torch.utils._device  # noqa: F401 (the import is the point)

import pytest_nemoperf.native.rank.entry  # noqa: F401 (as above)
