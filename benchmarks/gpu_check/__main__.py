"""Command line of the check, for any interpreter that imports pytest_nemoperf and torch."""

from __future__ import annotations

import sys
from pathlib import Path

# Benchmarks are scripts, no distribution: this folder is not on the path of an interpreter.
sys.path.insert(0, str(Path(__file__).parents[1]))

from gpu_check.cli import main

if __name__ == "__main__":
    sys.exit(main())
