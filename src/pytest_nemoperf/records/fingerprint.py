"""Fingerprint of a measurement's environment; its differences are in three tiers: key, watched, rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final

_VARIABLE_PREFIX: Final = "env."
"""Prefix of environment variables in a fingerprint."""
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
    "layer_spec",
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
    "NEMOPERF_FAST_PATHS",
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
_PATHS = (
    "*_CACHE",
    "*_CACHE_DIR",
    "*_CACHE_PATH",
    "*_CACHE_ROOT",
    "*_DEBUG_DIR",
    "*_DUMP_DIR",
    "*_LOG*",
    "*_HOME",
)
"""Variables that hold paths: they differ between users or launches, and don't change the speed."""
_MAX_VALUE_LENGTH = 200
ABSENT: Final = "-"
"""Value of an entry that a fingerprint does not have."""


class Significance(StrEnum):
    """Weight of a difference between two measurements."""

    KEY = "key"
    """Measurements that differ in it can't be compared."""
    WATCHED = "watched"
    """Known to change speed; reports list it as a suspect."""
    REST = "rest"
    """Shown for completeness."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One changed entry of a fingerprint.

    Attributes:
        name: Name of the entry.
        then: Value of the earlier measurement; ``-`` for none.
        now: Value of the later one.
        tier: Significance of the entry.
    """

    name: str
    then: str
    now: str
    tier: Significance


def _significance_of(name: str) -> Significance:
    """Return the tier of an entry by its name; REST for an unknown name."""
    if _matches(name, _KEY):
        return Significance.KEY
    if _matches(name, _WATCHED):
        return Significance.WATCHED
    return Significance.REST


def compare_fingerprints(then: Mapping[str, str], *, now: Mapping[str, str]) -> list[Difference]:
    """Return every entry that differs, by tier (the key first) and name."""
    tiers = list(Significance)
    differences = []
    for name in {*then, *now}:
        if then.get(name) != now.get(name):
            before = then.get(name, ABSENT)
            after = now.get(name, ABSENT)
            differences.append(Difference(name=name, then=before, now=after, tier=_significance_of(name)))
    return sorted(differences, key=lambda each: (tiers.index(each.tier), each.name))


def watched_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that may change speed, as entries of a fingerprint.

    Variables with a secret-like name, and URLs, which may contain a secret, are left out.
    """
    watched = {}
    for name, value in sorted(environ.items()):
        if _is_watched(name) and "://" not in value:
            watched[f"{_VARIABLE_PREFIX}{name}"] = value[:_MAX_VALUE_LENGTH]
    return watched


def _is_watched(name: str) -> bool:
    is_secret = any(word in name.upper() for word in _SECRET)
    return _matches(name, _VARIABLES) and not _matches(name, _PATHS) and not is_secret


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
