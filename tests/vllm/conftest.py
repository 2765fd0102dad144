"""One engine for each of a few models: every start takes vLLM a dozen seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.vllm.replica import Replica


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set a rank's environment, to be ignored by the engine, and a cache for the session alone."""
    torch.set_num_threads(1)  # the engine takes as many; on a busy machine two wait for each other
    pytest.importorskip("vllm", reason="vllm is not installed here; run `make test-vllm`")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
            patch.setenv(name, value)
        patch.setenv("VLLM_CACHE_ROOT", str(tmp_path_factory.mktemp("vllm")))
        patch.setenv("VLLM_CPU_CI_ENV", "1")  # vLLM's own switch: graphs are made, but not compiled
        yield


@pytest.fixture(scope="module")
def replica(surroundings: None) -> Iterator[Replica]:
    """One with compiled code, as users have it: a refit must reach that too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VLLM_CPU_CI_ENV")
        with Replica.started() as replica:
            yield replica
