"""Ranges of figures in files: what lies outside is refused when a file is read, with its JSON path.

The shipped schemas hold them as well. NaN and Infinity are in none of them.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeAlias

from msgspec import Meta

MAX_FIGURE: Final = 1e100
"""Far above any figure of a run, yet small enough that no sum, ratio or square overflows a float."""
_MIN_POSITIVE: Final = 1e-100
_MAX_COUNT: Final = 2**53  # beyond it a float, which rates are computed in, skips whole numbers
_MAX_PCT: Final = 1e6

Finite: TypeAlias = Annotated[float, Meta(ge=-MAX_FIGURE, le=MAX_FIGURE)]
"""A figure that may be negative: a loss, a mean reward, degrees Celsius."""
Amount: TypeAlias = Annotated[float, Meta(ge=0.0, le=MAX_FIGURE)]
"""A figure that can't be negative: seconds, watts, a share of samples."""
Positive: TypeAlias = Annotated[float, Meta(ge=_MIN_POSITIVE, le=MAX_FIGURE)]
"""A figure that others are divided by, or of which a logarithm is taken."""
Change: TypeAlias = Annotated[float, Meta(ge=-_MAX_PCT, le=_MAX_PCT)]
"""A change or scatter in percent; ten thousand times as much is none of one workload."""
Count: TypeAlias = Annotated[int, Meta(ge=0, le=_MAX_COUNT)]
"""A number of things, or a position counted from 0."""
Size: TypeAlias = Annotated[int, Meta(ge=1, le=_MAX_COUNT)]
"""A number of things of which there is at least one."""
