"""Defaults of launches and error rates, without imports: pytest's start reads them for its help."""

from __future__ import annotations

from typing import Final

DEFAULT_RUNS: Final = 5
"""Launches that make a baseline."""
DEFAULT_MAX_RUNS: Final = 5
"""Launches after which a case is INCONCLUSIVE."""
DEFAULT_ALPHA: Final = 0.005
"""Probability to call a loss as large as the tolerance REGRESSED."""
DEFAULT_BETA: Final = 0.01
"""Probability not to find a loss that a case says it finds."""
CONFIRMING_ROUNDS: Final = 8
"""Rounds side by side that a suspect is compared in, at most."""
