"""What surrounded a measurement, in tiers: what forbids comparing, what is suspect when it changed, the rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

_VARIABLE: Final = "env."
"""What the name of an environment variable begins with in a fingerprint."""
_KEY = ("case", "device", "flops_convention", "host", "machine", "precision", "topology", "workload")
_WATCHED = (
    "container",
    "cpu.*",
    "cpu_capability",
    "cuda",
    "cuda_capability",
    "cudnn",
    "distributed_backend",
    "driver",
    "env.*",
    "flash-attn",
    "float32_matmul_precision",
    "gpu.*",
    "megatron-core",
    "nccl",
    "nemo-*",
    "num_threads",
    "numpy",
    "torch",
    "transformer-engine",
    "transformers",
    "triton",
    "vllm",
)
_VARIABLES = (
    "CUBLAS*",
    "CUDA_*",
    "CUDNN_*",
    "DNNL_*",
    "FI_*",
    "FLASHINFER_*",
    "GLOO_*",
    "GOMP_*",
    "KMP_*",
    "LD_PRELOAD",
    "MALLOC_*",
    "MKL_*",
    "NCCL_*",
    "NVIDIA_TF32_OVERRIDE",
    "NVTE_*",
    "OMP_*",
    "ONEDNN_*",
    "OPENBLAS_*",
    "PYTORCH_*",
    "TORCHINDUCTOR_*",
    "TORCH_*",
    "TRITON_*",
    "UCX_*",
    "VLLM_*",
)
_SECRET = ("AUTH", "CREDENTIAL", "KEY", "PASSWORD", "PASSWD", "SECRET", "TOKEN")
_PLACES = ("*_CACHE", "*_CACHE_DIR", "*_CACHE_PATH", "*_CACHE_ROOT", "*_DEBUG_DIR", "*_DUMP_DIR", "*_LOG*", "*_HOME")
"""Names of places: they differ from user to user, or from launch to launch, and make nothing faster."""
_LONGEST_VALUE = 200
_ABSENT: Final = "-"


class Significance(StrEnum):
    """How much a difference between two measurements means."""

    KEY = "key"
    """The two can't be compared."""
    WATCHED = "watched"
    """A suspect: known to change speed."""
    REST = "rest"
    """Told for completeness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One entry of a fingerprint that is not what it was.

    Attributes:
        name: Of the entry.
        then: Value of the earlier measurement; ABSENT if it had none.
        now: Value of the later one.
        tier: How much it means.
    """

    name: str
    then: str
    now: str
    tier: Significance


def tier_of(name: str) -> Significance:
    """Return the tier of an entry by its name; what nobody knows is the rest."""
    if any(fnmatchcase(name, pattern) for pattern in _KEY):
        return Significance.KEY
    if any(fnmatchcase(name, pattern) for pattern in _WATCHED):
        return Significance.WATCHED
    return Significance.REST


def compare_fingerprints(then: Mapping[str, str], *, now: Mapping[str, str]) -> list[Difference]:
    """Return every entry that differs, by tier (the key first) and name."""
    tiers = list(Significance)
    differences = [
        Difference(name=name, then=then.get(name, _ABSENT), now=now.get(name, _ABSENT), tier=tier_of(name))
        for name in {*then, *now}
        if then.get(name) != now.get(name)
    ]
    return sorted(differences, key=lambda each: (tiers.index(each.tier), each.name))


def watched_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that may change speed, as entries of a fingerprint.

    Never one whose name speaks of a secret, nor an address, which may hold one.
    """
    return {
        f"{_VARIABLE}{name}": value[:_LONGEST_VALUE]
        for name, value in sorted(environ.items())
        if _is_watched(name) and "://" not in value
    }


def _is_watched(name: str) -> bool:
    is_known = any(fnmatchcase(name, pattern) for pattern in _VARIABLES)
    is_place = any(fnmatchcase(name, pattern) for pattern in _PLACES)
    return is_known and not is_place and not any(word in name.upper() for word in _SECRET)
