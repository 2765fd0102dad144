"""Imports everything a rank will need, and does nothing else: for processes that ranks are forked from."""

from __future__ import annotations

import torch._dynamo  # noqa: F401 (the import is the point: sharding a model imports it, for most of a rank's start)

import pytest_nemoperf.native.rank  # noqa: F401 (as above)
