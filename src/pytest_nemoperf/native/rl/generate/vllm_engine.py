"""vLLM's engine in a process of its own, and its requests and replies to and from the rank that started it.

It can't run in the rank: vLLM takes RANK, WORLD_SIZE and an existing process group for its own, and replaces
``torch.set_num_threads``. Its own process has none of these.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_nemoperf.errors import GenerationError
from pytest_nemoperf.models.huggingface.export import huggingface_config
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.parallel.parallelize import generation_dtype
from pytest_nemoperf.native.rl.generate.huggingface_weights import huggingface_weights
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Request, Response
from pytest_nemoperf.native.seeds import derived_seed
from pytest_nemoperf.process.orphans import die_with_parent
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import STOP_TOKEN

_BLOCK_TOKENS = 128  # of vLLM's cache on CPU; on GPUs blocks are smaller
_SPARE_BLOCKS = 8  # vLLM keeps one for itself


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmRequest:
    """Request of the rank.

    Attributes:
        method: Method of Engine.
        arguments: By name.
    """

    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmReply:
    """Reply of the engine.

    Attributes:
        value: Returned by the method.
        error: Traceback of the exception it raised; empty if none.
    """

    value: Any = None
    error: str = ""


def serve(connection: Connection, plan: Plan, parent_pid: int) -> None:
    """Serve requests until the rank is gone: the main function of the process."""
    die_with_parent(signal.SIGKILL, parent_pid=parent_pid)
    engine = Engine(plan)
    with suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(_reply(engine, connection.recv()))


def weight_views(flat: Tensor, *, plan: Plan) -> dict[str, Tensor]:
    """Return every weight of the model as a view of one tensor, by the native engine's names."""
    weights = list(model_weights(plan.model))
    parts = torch.split(flat, [weight.numel for weight in weights])
    return {weight.name: part.view(weight.shape) for weight, part in zip(weights, parts, strict=True)}


class Engine:
    """vLLM with one model and weights from outside.

    Args:
        plan: Model, precision and sampling.

    Attributes:
        num_slots: Samples it decodes at once.
    """

    def __init__(self, plan: Plan) -> None:
        assert plan.rl is not None and plan.layout.generation is not None  # noqa: S101, PT018 (the rank checked both)
        self._plan = plan
        self._rl = plan.rl
        self.num_slots = plan.rl.num_slots(dp=plan.layout.generation.dp)
        self._llm: Any = None
        self._is_asleep = False

    def start(self) -> None:
        """Build the engine, with dummy weights."""
        from vllm import LLM, envs  # noqa: PLC0415 (an import of seconds, in this process alone)

        plan = self._plan
        self._llm = LLM(
            model=_model_folder(plan, cache=Path(envs.VLLM_CACHE_ROOT)),
            skip_tokenizer_init=True,  # prompts and responses are token numbers
            generation_config="vllm",  # no other defaults of sampling
            load_format="dummy",
            dtype=str(generation_dtype(plan)).removeprefix("torch."),
            quantization="fp8" if plan.generation_precision == "fp8" else None,
            max_model_len=plan.seq_len,
            max_num_seqs=self.num_slots,
            kv_cache_memory_bytes=self._num_cache_bytes(),
            gpu_memory_utilization=0.01,  # only checked to be free: the line above sets the cache's size
            enable_sleep_mode=plan.device == "cuda",
            logprobs_mode=self._logprobs_mode(),
            seed=plan.seed,
        )

    def load(self, rebuild: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
        """Load weights from memory shared with the rank, and drop everything computed with others."""
        weights = weight_views(rebuild(*arguments), plan=self._plan)
        if self._is_asleep:
            self._llm.wake_up()
            self._is_asleep = False
        pairs = huggingface_weights(self._plan.model, weights=weights)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": pairs})
        if self._plan.device == "cuda":
            torch.cuda.synchronize()  # the rank may overwrite or free that memory after the reply
        self._llm.reset_prefix_cache()

    def sleep(self) -> None:
        """Free weights and cache on GPUs; on CPU vLLM has no such mode and keeps both."""
        if self._plan.device == "cuda" and not self._is_asleep:
            self._llm.sleep(level=2)
            self._is_asleep = True

    def generate(self, requests: Sequence[Request], *, seed: int) -> GenerationResult:
        """Generate a response to each request.

        Raises:
            GenerationError: If a log-probability is not finite.
        """
        prompts = []
        sampling = []
        for request in requests:
            prompts.append({"prompt_token_ids": list(request.prompt)})
            sampling.append(self._sampling(request, seed=seed))
        self._llm.enqueue(prompts, sampling, use_tqdm=False)
        ended = []
        num_passes = 0
        while self._llm.llm_engine.has_unfinished_requests():
            num_passes += 1
            for output in self._llm.llm_engine.step():
                if output.finished:
                    ended.append(output)
        ended.sort(key=lambda output: int(output.request_id))  # numbers in the order of the requests
        responses = []
        for request, output in zip(requests, ended, strict=True):
            responses.append(_response(request, output=output.outputs[0]))
        num_slots = self._rl.max_batch_size or len(requests)
        return GenerationResult(responses=tuple(responses), num_slot_passes=num_passes * num_slots)

    def _sampling(self, request: Request, *, seed: int) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415 (imported since start)

        return SamplingParams(
            temperature=self._rl.temperature,
            top_p=self._rl.top_p,
            top_k=self._rl.top_k or 0,
            max_tokens=request.max_len,
            ignore_eos=True,
            stop_token_ids=None if request.is_pinned else [STOP_TOKEN],
            seed=derived_seed(seed, purpose=f"sample {request.sample}"),
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
        )

    def _logprobs_mode(self) -> str:
        """Return vLLM's mode for log-probabilities of all logits over the temperature, before top-k and top-p.

        Its raw ones are before temperature and cuts: right at temperature 1. Its processed ones are after both: right
        without top-k and top-p. ``vllm_limits`` refuses the rest.
        """
        return "raw_logprobs" if self._rl.temperature == 1 else "processed_logprobs"

    def _num_cache_bytes(self) -> int:
        """Return bytes of the keys and values of all sequences that are generated at once."""
        model = self._plan.model
        blocks = self.num_slots * math.ceil(self._plan.seq_len / _BLOCK_TOKENS) + _SPARE_BLOCKS
        numbers = 2 * model.num_layers * model.num_kv_heads * model.head_dim * _BLOCK_TOKENS * blocks
        return numbers * torch.empty(0, dtype=generation_dtype(self._plan)).element_size()


def _model_folder(plan: Plan, *, cache: Path) -> str:
    """Write the model's config and return its folder, named by a hash of it: vLLM keeps compiled code by the name."""
    config = huggingface_config(plan.model, max_positions=plan.seq_len)
    # On CPU vLLM packs the head's matrix, but does not pack a tied one again when weights are reloaded.
    config["tie_word_embeddings"] = False
    text = json.dumps(config, sort_keys=True)
    folder = cache / "nemoperf" / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"config-{os.getpid()}.json"  # other ranks may be writing the same
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(folder / "config.json")
    return str(folder)


def _reply(engine: Engine, request: VllmRequest) -> VllmReply:
    try:
        return VllmReply(value=getattr(engine, request.method)(**request.arguments))
    except Exception:  # the rank raises it
        return VllmReply(error=traceback.format_exc())


def _response(request: Request, *, output: Any) -> Response:
    logprobs = tuple(output.logprobs.logprobs)
    if not all(map(math.isfinite, logprobs)):
        raise GenerationError(
            f"sample {request.sample}: vLLM's log-probabilities are not finite; look at the loss and gradient norm of "
            "the steps before, and lower the learning rate"
        )
    return Response(
        sample=request.sample,
        tokens=tuple(output.token_ids),
        logprobs=logprobs,
        is_truncated=not request.is_pinned and output.finish_reason == "length",
    )
