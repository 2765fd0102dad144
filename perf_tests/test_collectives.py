"""Collectives over the ranks of one node, whose bandwidths are ceilings as those of kernels are (docs/ceilings.md)."""

import pytest

GPU_SYSTEMS = ("h100", "h200", "b200", "b300")
GPUS = {"cpu": 2, **dict.fromkeys(GPU_SYSTEMS, 8), **dict.fromkeys(("gb200", "gb300"), 4)}
SIZE_MIB = {system: 4 if system == "cpu" else 512 for system in GPUS}
"""On a GPU a message that takes the links' whole bandwidth; on a CPU one that takes milliseconds."""


# Threads of gloo share the cores with the ranks: on a CPU the time of a call depends on what else runs.
@pytest.mark.perf(tolerance=15, runs=1)
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"])
def test_collective(perf, kind):
    perf.collective(kind, gpus=GPUS, size_mib=SIZE_MIB)
