"""Generator with vLLM: the rank's side; the engine is in a child process (``vllm_engine``)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from pytest_nemoperf.errors import GenerationError, PlanError
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.native.parallel.parallelize import generation_dtype
from pytest_nemoperf.native.rl.generate.responses import check_requests
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Request
from pytest_nemoperf.native.rl.generate.vllm_engine import VllmReply, VllmRequest, serve, weight_views
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.vllm_limits import vllm_problems

_START_LIMIT_SEC = 600.0  # a first start compiles the model: 40 s for four small layers on two cores
_DEVICE_ARGUMENT = 6  # of rebuild_cuda_tensor in torch.multiprocessing.reductions: the device's number


class VllmGenerator:
    """A replica of one rank; see the protocol in rollouts.py.

    Weights are passed in memory that both processes share: the refit fills it, the engine loads from it. Between
    ``release`` and ``allocate`` that memory is free, and on GPUs the engine's own weights and cache too.

    Args:
        plan: Model, precision and sampling.
        device: Device of this rank.

    Raises:
        PlanError: If vLLM can't run the plan.
        GenerationError: If vLLM doesn't start.
    """

    def __init__(self, plan: Plan, *, device: torch.device) -> None:
        rl = plan.rl
        generation = plan.layout.generation
        assert rl is not None and generation is not None  # noqa: S101, PT018 (resolve filled both)
        for problem in vllm_problems(plan.model, rl=rl, generation=generation):
            raise PlanError(f"{plan.model.name}: {problem}")
        self._plan = plan
        self._device = device
        self._flat: Tensor | None = None
        context = torch.multiprocessing.get_context("spawn")
        self._connection, engine_end = context.Pipe()
        # A daemon: it ends with the rank, which does not wait for it.
        self._process = context.Process(target=serve, args=(engine_end, plan, os.getpid()), daemon=True)
        with _environment(_engine_variables(device)):
            self._process.start()
        engine_end.close()  # so that the end of the process ends the pipe
        self._call("start", limit_sec=_START_LIMIT_SEC)

    def allocate(self) -> Mapping[str, Tensor]:
        """Return shared memory for all weights, by the native engine's names."""
        if self._flat is None:
            dtype = generation_dtype(self._plan)
            self._flat = torch.empty(num_parameters(self._plan.model), dtype=dtype, device=self._device)
            self._flat.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it
        return weight_views(self._flat, plan=self._plan)

    def on_weights_updated(self) -> None:
        """Make the engine load the weights and drop everything computed with others."""
        assert self._flat is not None  # noqa: S101 (the protocol: allocate comes first)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the other process does not wait for this one's streams
        rebuild, arguments = reduce_tensor(self._flat)  # type: ignore[no-untyped-call]  # as above
        if self._device.type == "cuda":
            arguments = (
                *arguments[:_DEVICE_ARGUMENT],
                0,
                *arguments[_DEVICE_ARGUMENT + 1 :],
            )  # the engine sees one device
        self._call("load", rebuild=rebuild, arguments=arguments)

    def generate(self, requests: Sequence[Request], *, seed: int) -> GenerationResult:
        """Generate a response to each request; see the protocol.

        Raises:
            GenerationError: If logits are not finite, a prompt and its limit don't fit, or the engine has died.
        """
        if not requests:
            return GenerationResult(responses=(), num_slot_passes=0)
        check_requests(requests, seq_len=self._plan.seq_len)
        generated: GenerationResult = self._call("generate", requests=tuple(requests), seed=seed)
        return generated

    def release(self) -> None:
        """Free the shared memory, and the engine's weights and cache on GPUs."""
        self._flat = None
        self._call("sleep")

    def close(self) -> None:
        """End the engine's process; without this call it ends with the rank."""
        self._connection.close()
        self._process.join()

    def _call(self, method: str, *, limit_sec: float | None = None, **arguments: Any) -> Any:
        """Call a method of the engine and return its value.

        Raises:
            GenerationError: If it failed, or has not replied.
        """
        try:
            self._connection.send(VllmRequest(method=method, arguments=arguments))
            if limit_sec is not None and not self._connection.poll(limit_sec):
                raise GenerationError(
                    f"vLLM did not {method} within {limit_sec:g} s; this rank's log tells how far it got"
                )
            reply: VllmReply = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            raise GenerationError(
                f"vLLM's process ended with exit code {self._process.exitcode} when asked to {method}; "
                "this rank's log has its last words"
            ) from None
        if reply.error:
            last = reply.error.strip().rsplit("\n", maxsplit=1)[-1]
            raise GenerationError(f"vLLM failed to {method}: {last}\n{reply.error}")
        return reply.value


def _engine_variables(device: torch.device) -> dict[str, str]:
    """Return the environment of the engine's process: this one's without the variables of a rank."""
    own = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    threads = str(torch.get_num_threads())
    variables = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process more is enough
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # ranks on one host must not be pinned to the same cores
        "OMP_NUM_THREADS": threads,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",  # there is nothing to be fetched
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),  # its warnings look like failures
    }
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else list(map(str, range(torch.cuda.device_count())))
        variables["CUDA_VISIBLE_DEVICES"] = names[device.index or 0]
    return inherited | variables


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment for a process that is started meanwhile."""
    own = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)
