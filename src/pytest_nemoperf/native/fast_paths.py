"""Fast paths that are off by default: paths of the engine that no GPU run has confirmed yet.

``NEMOPERF_FAST_PATHS=cast_weights_once,window_bands`` switches paths on in all ranks. The variable is recorded with
every measurement as a watched entry, so that a comparison with one without it names it. ``make gpu-check`` times each
path beside the default one and compares their losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pytest_nemoperf.errors import PlanError, did_you_mean, shown

FAST_PATHS_VARIABLE: Final = "NEMOPERF_FAST_PATHS"
CAST_WEIGHTS_ONCE: Final = "cast_weights_once"
EXPANDABLE_SEGMENTS: Final = "expandable_segments"
TF32: Final = "tf32"
WINDOW_BANDS: Final = "window_bands"


@dataclass(frozen=True, slots=True, kw_only=True)
class FastPath:
    """One switch.

    Attributes:
        name: Name in the variable.
        does: Difference from the default path, and plans that it leaves alone.
        cost: Price in memory or accuracy.
        environment: Variables that the path consists of; libraries read them before a rank uses its device.
    """

    name: str
    does: str
    cost: str
    environment: Mapping[str, str] = field(default_factory=dict)


FAST_PATHS: Final = (
    FastPath(
        name=CAST_WEIGHTS_ONCE,
        does=(
            "matrices are cast to the compute dtype once a step, not in each micro-batch; without FSDP, pipeline and "
            "torch.compile"
        ),
        cost="2 bytes of memory per weight, held between steps too; losses are the same bit for bit",
    ),
    FastPath(
        name=WINDOW_BANDS,
        does=(
            "attention with a sliding or chunked window computes the scores of two windows per query, without a mask "
            "as large as the sequence squared"
        ),
        cost="none known; sums in another order, so losses agree within rounding",
    ),
    FastPath(
        name=EXPANDABLE_SEGMENTS,
        does="torch's allocator grows its segments, so that less memory is lost to fragments",
        cost="mapping of pages when a segment grows; losses are the same bit for bit",
        environment={"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    ),
    FastPath(
        name=TF32,
        does="fp32 matrix products (fp32 plans, routers of mixtures) on CUDA use TF32",
        cost="10 bits of mantissa in those products: losses of fp32 plans differ in the fourth digit",
    ),
)


def enabled_fast_paths(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the paths that are switched on.

    Raises:
        PlanError: If the variable names a path that does not exist.
    """
    text = environ.get(FAST_PATHS_VARIABLE, "")
    names = frozenset(part.strip() for part in text.split(",")) - {""}
    known = [path.name for path in FAST_PATHS]
    for name in sorted(names):
        if name not in known:
            raise PlanError(
                f"{FAST_PATHS_VARIABLE}={text}: unknown fast path {shown(name)}; {did_you_mean(name, known)}"
            )
    return names


def fast_path_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the paths switched on consist of.

    Raises:
        PlanError: If the variable names a path that does not exist, or one of these variables has another value.
    """
    enabled = enabled_fast_paths(environ)
    variables: dict[str, str] = {}
    for path in FAST_PATHS:
        if path.name not in enabled:
            continue
        for name, value in path.environment.items():
            inherited = environ.get(name, value)
            if inherited != value:
                raise PlanError(
                    f"{FAST_PATHS_VARIABLE} has {path.name}, which sets {name}={value}, but {name}={inherited} is set; "
                    "unset it, or add the setting to it and take the path off the list"
                )
            variables[name] = value
    return variables
