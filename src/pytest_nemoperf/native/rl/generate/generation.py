"""Native generation engine: samples responses to prompts, with a key-value cache and continuous batching."""

# R requests, M maximum tokens of a response, N active slots, T tokens of a pass (one of each slot, then those of
# prompts), D hidden, V vocabulary

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pytest_nemoperf.errors import GenerationError
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.model.layers import Linear
from pytest_nemoperf.native.model.rope import PositionTables, gather_positions
from pytest_nemoperf.native.model.transformer import Decoder, LossHead
from pytest_nemoperf.native.parallel.collectives import all_gather
from pytest_nemoperf.native.parallel.initialize import fill_constants
from pytest_nemoperf.native.parallel.mesh import GenerationMesh, RankMesh
from pytest_nemoperf.native.parallel.parallelize import generation_dtype
from pytest_nemoperf.native.parallel.sharding import shard_weights
from pytest_nemoperf.native.parallel.tensor_parallel import apply_tensor_parallel, sum_expert_parts
from pytest_nemoperf.native.rl.generate.kv_cache import ForwardBatch, KVCache, PromptChunk
from pytest_nemoperf.native.rl.generate.responses import Responses, check_requests
from pytest_nemoperf.native.rl.generate.rollouts import GenerationResult, Request
from pytest_nemoperf.native.rl.generate.sampling import Sampling
from pytest_nemoperf.native.rl.generate.slots import DecodeSlots, Ints, Prompt
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import STOP_TOKEN


class NativeGenerator:
    """One rank of a replica; see the protocol in rollouts.py.

    Weights have the compute type. In a mixture every rank of the tp axis has a part of each expert, so that no token
    is sent to another rank.

    Args:
        plan: Model, precision and sampling.
        mesh: Process groups of its replica.
        device: Device of this rank.

    Raises:
        PlanError: If the model can't be cut for the replica.
    """

    def __init__(self, plan: Plan, *, mesh: GenerationMesh, device: torch.device) -> None:
        rl = plan.rl
        assert rl is not None  # noqa: S101 (other plans generate nothing)
        self._seq_len = plan.seq_len
        self._max_batch_size = rl.max_batch_size
        self._sampling = Sampling(temperature=rl.temperature, top_k=rl.top_k, top_p=rl.top_p)
        self._mesh = mesh
        self._device = device
        # Each rank of a tp group draws from the same logits, but CUDA's cumulative sums differ in their last bits from
        # call to call, and with them now and then a token: there the first rank's tokens count.
        self._draws_are_repeatable = device.type != "cuda"
        self._model = _build(plan, mesh=mesh)
        self._cache = KVCache(self._model)
        self._tables: PositionTables = {}

    def allocate(self) -> Mapping[str, Tensor]:
        """Return memory for this rank's weights, by the native engine's names; a refit fills it."""
        self._model.to_empty(device=self._device)
        if self._device.type == "cpu" and self._model.dtype is torch.float32:
            _store_transposed(self._model)
        fill_constants(self._model, device=self._device)
        self._tables = self._model.tables
        return {name: weight.detach() for name, weight in self._model.named_parameters()}

    def on_weights_updated(self) -> None:
        """Do nothing: ``generate`` keeps no result that was computed with older weights."""

    def release(self) -> None:
        """Free weights and cache."""
        self._cache.release()
        self._model.to_empty(device=torch.device("meta"))
        self._model.tables = {}
        self._tables = {}

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], *, seed: int) -> GenerationResult:
        """Generate a response to each request; see the protocol.

        Raises:
            GenerationError: If logits are not finite, or a prompt and its limit don't fit the cache.
        """
        if not requests:
            return GenerationResult(responses=(), num_slot_passes=0)
        check_requests(requests, seq_len=self._seq_len)
        num_slots = self._max_batch_size or len(requests)
        slots = DecodeSlots(requests, num_slots=num_slots)
        max_len = max(len(request.prompt) + request.max_len for request in requests)
        self._cache.reserve(min(num_slots, len(requests)), max_len=max_len)
        drawn = Responses(requests, seed=seed, device=self._device)
        num_passes = self._run(slots, drawn=drawn)
        tp = None if self._draws_are_repeatable else self._mesh.tp
        try:
            responses = drawn.read(pp=self._mesh.pp, tp=tp)
        except GenerationError:
            self._cache.release()  # no later call may read a key or value that is not finite
            raise
        return GenerationResult(responses=responses, num_slot_passes=num_passes * num_slots)

    def _run(self, slots: DecodeSlots, *, drawn: Responses) -> int:
        """Generate all responses and return the number of passes of the model."""
        num_passes = 0
        state_3N = self._state(slots, drawn=drawn)
        while not slots.is_done:
            prompts = slots.admit()
            num_decoding = state_3N.shape[1]
            longest = int(slots.positions_N[:num_decoding].max(initial=0)) + 1
            next_3N = self._state(slots, drawn=drawn) if prompts else state_3N
            tokens_N = self._step(state_3N, outputs_N=next_3N[2], longest=longest, prompts=prompts, drawn=drawn)
            num_passes += 1
            state_3N = next_3N.add_(1)
            is_stop_N = None
            if slots.may_stop:
                is_stop_N = (tokens_N == STOP_TOKEN).cpu().numpy()
            has_ended_N = slots.advance(is_stop_N)
            if has_ended_N is not None:
                drawn.keep_lengths(slots, has_ended_N=has_ended_N)
                longest = int(slots.positions_N.max())
                free_slots, moved_slots = slots.remove_ended(has_ended_N)
                self._cache.move(self._on_device(free_slots), self._on_device(moved_slots), longest=longest)
                state_3N = self._state(slots, drawn=drawn)
        return num_passes

    def _state(self, slots: DecodeSlots, *, drawn: Responses) -> Tensor:
        """Return each slot's next position, row of the cache, and index of the drawn token, stacked (3, N)."""
        positions_N = slots.positions_N
        rows_N = np.arange(len(positions_N)) * self._cache.max_len + positions_N
        outputs_N = slots.request_N * drawn.longest + slots.generated_N
        return self._on_device(np.stack([positions_N, rows_N, outputs_N]))

    def _step(
        self, state_3N: Tensor, *, outputs_N: Tensor, longest: int, prompts: Sequence[Prompt], drawn: Responses
    ) -> Tensor:
        """Run the slots' last tokens, and prompts, through the model, and return a new token of each."""
        positions_N, rows_N, last_N = state_3N.unbind()
        tokens_T = drawn.tokens_of(last_N - 1)
        positions_T = positions_N
        chunks = []
        if prompts:
            tokens: list[int] = []
            positions = []
            for prompt in prompts:
                tokens += prompt.tokens
                positions.append(np.arange(len(prompt.tokens)))
                slots = self._on_device(np.array(prompt.slots))
                chunks.append(PromptChunk(num_tokens=len(prompt.tokens), slots=slots))
            tokens_T = torch.cat([tokens_T, self._on_device(np.array(tokens))])
            positions_T = torch.cat([positions_N, self._on_device(np.concatenate(positions))])
        self._cache.batch = ForwardBatch(positions_N=positions_N, rows_N=rows_N, longest=longest, chunks=chunks)
        self._model.tables = gather_positions(self._tables, positions_T)
        x_TD = self._through_stages(tokens_T)
        if self._model.is_last:
            if prompts:
                x_TD = x_TD[self._on_device(_last_rows(prompts, num_decoding=len(positions_N)))]
            tokens_N, logprobs_N = self._sampling.draw(self._logits(x_TD), drawn.uniforms_of(outputs_N))
            if self._mesh.tp is not None and not self._draws_are_repeatable:
                dist.broadcast(tokens_N, group_src=0, group=self._mesh.tp)
        else:
            tokens_N = torch.empty_like(outputs_N)
            logprobs_N = torch.zeros_like(outputs_N, dtype=torch.float32)
        if self._mesh.pp is not None:
            dist.broadcast(tokens_N, group_src=self._mesh.pp.size() - 1, group=self._mesh.pp)
        drawn.write(outputs_N, tokens_N=tokens_N, logprobs_N=logprobs_N)
        return tokens_N

    def _through_stages(self, tokens_T: Tensor) -> Tensor:
        """Return the residual stream after this rank's blocks."""
        model = self._model
        group = self._mesh.pp
        if group is None:
            return model.hidden(tokens_T[None])
        stage = group.rank()
        x = tokens_T[None]
        if not model.is_first:
            x = torch.empty(len(tokens_T), model.config.hidden_size, dtype=model.dtype, device=self._device)
            dist.recv(x, group_src=stage - 1, group=group)
        x = model.hidden(x)
        if not model.is_last:
            dist.send(x.contiguous(), group_dst=stage + 1, group=group)
        return x

    def _logits(self, x_ND: Tensor) -> Tensor:
        """Return the logits of the whole vocabulary."""
        logits_NV = self._model.head_logits(x_ND)
        if self._mesh.tp is None:
            return logits_NV
        parts = all_gather(logits_NV, group=self._mesh.tp).chunk(self._mesh.tp.size())
        return torch.cat(parts, dim=1)[:, : self._model.config.vocab_size]

    def _on_device(self, values: Ints) -> Tensor:
        return torch.from_numpy(values).to(self._device, non_blocking=True)


def _build(plan: Plan, *, mesh: GenerationMesh) -> Decoder:
    """Return this rank's part of the model, without memory."""
    pp = 1
    stage = 0
    if mesh.pp is not None:
        pp = mesh.pp.size()
        stage = mesh.pp.rank()
    dtype = generation_dtype(plan)
    with torch.device("meta"):
        model = Decoder(
            plan.model,
            seq_len=plan.seq_len,
            dtype=dtype,
            layers=stage_layers(plan.model, pp=pp, vp=1)[stage][0],
            is_first=stage == 0,
            is_last=stage == pp - 1,
            is_router_balanced=plan.is_router_balanced,
        )
    if mesh.tp is not None:
        apply_tensor_parallel(model, group=mesh.tp, sequence_parallel=False)
        sum_expert_parts(model, group=mesh.tp)
    weights = {weight.name: weight for weight in model_weights(plan.model)}
    shard_weights(model.to(dtype), weights=weights, mesh=RankMesh(tp=mesh.tp, etp=mesh.tp))
    return model.requires_grad_(requires_grad=False)


def _store_transposed(model: Decoder) -> None:
    """Store matrices transposed: saves MKL a copy in products of few tokens.

    With 32 tokens the copy took a sixth to a half of the product's time.
    """
    for module in model.modules():
        if isinstance(module, (Linear, LossHead)) and module.weight is not None:
            transposed = torch.empty(module.weight.shape[::-1], device=module.weight.device)
            module.weight = nn.Parameter(transposed.t(), requires_grad=False)


def _last_rows(prompts: Sequence[Prompt], *, num_decoding: int) -> Ints:
    """Return the row of each slot's last token in a pass."""
    row_by_slot = {}
    end = num_decoding
    for prompt in prompts:
        end += len(prompt.tokens)
        for slot in prompt.slots:
            row_by_slot[slot] = end - 1
    prompt_rows = [row_by_slot[slot] for slot in sorted(row_by_slot)]
    return np.concatenate([np.arange(num_decoding), prompt_rows])
