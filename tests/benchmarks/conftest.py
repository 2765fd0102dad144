"""Benchmarks are scripts, no distribution: their folder is on the path for their tests alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
