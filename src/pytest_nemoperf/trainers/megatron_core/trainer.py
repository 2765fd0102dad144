"""Steps of Megatron-Core on this rank: its schedule, gradients and optimizer."""

# B sequences of a micro-batch, S tokens of a sequence (this rank's), N next tokens of each

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.optimizer import get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.transformer.module import Float16Module
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.parallel.context_parallel import local_positions
from pytest_nemoperf.native.parallel.mesh import RankMesh, data_parallel_rank, group_timeout
from pytest_nemoperf.native.phases import PhaseClock, RankStep, phase_clock
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.trainers.megatron_core.config import (
    ddp_config,
    has_transformer_engine,
    optimizer_config,
    transformer_config,
)
from pytest_nemoperf.trainers.megatron_core.weights import fill_weights


class MegatronTrainer:
    """Runs steps of a plan on this rank; ``environment`` holds the choices made here that affect the speed.

    Args:
        plan: Plan to run.
        rank: This rank.
        device: Its device.
    """

    def __init__(self, plan: Plan, *, rank: int, device: torch.device) -> None:
        mesh = join_groups(plan, timeout=group_timeout(plan))
        has_te = has_transformer_engine()
        self.environment: Mapping[str, str] = {"layer_spec": "transformer_engine" if has_te else "local"}
        self._plan = plan
        self._clock = phase_clock(device)
        positions = local_positions(plan.seq_len, mesh=mesh)
        self._positions_S = positions.to(device)
        self._data = SyntheticTokens(
            plan, dp_rank=data_parallel_rank(rank, layout=plan.layout), device=device, positions=positions
        )
        config = transformer_config(plan, has_te=has_te)
        self._chunks = []
        for number in range(plan.layout.vp):
            chunk = build_chunk(plan, config=config, number=number, has_te=has_te)
            fill_weights(chunk, plan=plan, mesh=mesh)
            chunk = chunk.to(device)
            if config.bf16:
                chunk = Float16Module(config, chunk)
            # Gradients of further chunks are ready together, at the end of the first.
            wrapped = DistributedDataParallel(config, ddp_config(plan), chunk, disable_bucketing=number > 0)
            wrapped.train()
            self._chunks.append(wrapped)
        # Weight decay is that of every framework: for norms and biases, too.
        self._optimizer = get_megatron_optimizer(optimizer_config(plan), self._chunks, config_overrides={})
        config.grad_scale_func = self._optimizer.scale_loss
        config.finalize_model_grads_func = self._finalize
        config.no_sync_func = [chunk.no_sync for chunk in self._chunks]
        if len(self._chunks) == 1:
            config.no_sync_func = config.no_sync_func[0]
        if plan.layout.pp > 1:
            time_messages(self._clock)
        self._schedule = get_forward_backward_func()

    def step(self, number: int) -> RankStep:
        """Run one step; ranks should enter together, as waiting for the others is timed."""
        clock = self._clock
        clock.start()
        micro_batches = self._data.micro_batches(number)
        clock.mark("data")
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        clock.mark("optimizer")
        iterators = [iter(micro_batches) for _ in self._chunks]
        is_split = len(iterators) > 1
        outputs = self._schedule(
            forward_step_func=self._forward,
            data_iterator=iterators if is_split else iterators[0],
            model=self._chunks if is_split else self._chunks[0],
            num_microbatches=len(micro_batches),
            seq_length=self._plan.seq_len,
            micro_batch_size=self._plan.micro_batch_size,
            forward_only=False,
        )
        clock.mark("grad_comm")
        _, grad_norm, _ = self._optimizer.step()
        clock.mark("optimizer")
        if self._plan.inject_pct > 0:
            clock.delay(self._plan.inject_pct)
        timed = clock.stop()
        loss = torch.stack([output["loss"] for output in outputs]).mean().item() if outputs else 0.0
        return replace(timed, loss=loss, grad_norm=float(grad_norm))

    def _forward(self, data: Iterator[tuple[Tensor, Tensor]], model: nn.Module) -> tuple[Tensor, Callable[..., Any]]:
        self._clock.mark("backward")
        tokens_BS, labels_BSN = next(data)
        positions_BS = self._positions_S.expand(tokens_BS.shape)
        output = model(tokens_BS, positions_BS, None, labels=labels_BSN[..., 0])
        self._clock.mark("forward")
        return output, self._loss

    def _loss(self, losses_BS: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of a micro-batch as the schedule wants it, and as it is."""
        loss = losses_BS.float().mean()
        # The schedule multiplies by cp, and divides by the number of micro-batches in place, so the value is copied.
        return loss / self._plan.layout.cp, {"loss": loss.detach().clone()}

    def _finalize(self, *args: Any, **options: Any) -> None:
        """Reduce gradients over ranks, after the last backward pass."""
        self._clock.mark("backward")
        finalize_model_grads(*args, **options)


def join_groups(plan: Plan, *, timeout: timedelta) -> RankMesh:
    """Make Megatron-Core's process groups, and return those of this rank that weights and tokens are cut over."""
    layout = plan.layout
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tp,
        pipeline_model_parallel_size=layout.pp,
        virtual_pipeline_model_parallel_size=layout.vp if layout.vp > 1 else None,
        context_parallel_size=layout.cp,
        expert_model_parallel_size=layout.ep,
        expert_tensor_parallel_size=layout.etp,
        distributed_timeout_minutes=math.ceil(timeout.total_seconds() / 60),
    )
    tensor_parallel.model_parallel_cuda_manual_seed(plan.seed)
    return RankMesh(
        tp=_group(parallel_state.get_tensor_model_parallel_group()),
        cp=_group(parallel_state.get_context_parallel_group()),
        ep=_group(parallel_state.get_expert_model_parallel_group()),
        etp=_group(parallel_state.get_expert_tensor_parallel_group()),
    )


def build_chunk(plan: Plan, *, config: Any, number: int, has_te: bool) -> nn.Module:
    """Return one of this rank's parts of the model, with Megatron-Core's initial weights.

    Args:
        plan: Plan to run.
        config: From transformer_config.
        number: Number of the chunk among this rank's.
        has_te: Layers are transformer-engine's.
    """
    model = plan.model
    stage = number if plan.layout.vp > 1 else None
    spec = get_gpt_decoder_block_spec(
        config,
        use_transformer_engine=has_te,
        normalization=config.normalization,
        qk_l2_norm=model.qk_norm == "l2",
        vp_stage=stage,
    )
    scaling = model.rope_scaling
    kind = None if scaling is None else scaling.kind
    options: dict[str, Any] = {"position_embedding_type": "rope"}
    if model.max_positions is not None:
        options["position_embedding_type"] = "learned_absolute"
    elif kind == "yarn" and model.mla is None:
        options["position_embedding_type"] = "yarn"
    elif scaling is not None and kind == "llama3":
        options |= {"rope_scaling": True, "rope_scaling_factor": scaling.factor}
    elif scaling is not None and kind == "linear":
        options["seq_len_interpolation_factor"] = scaling.factor
    chunk: nn.Module = GPTModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=model.vocab_size,
        max_sequence_length=model.max_positions or plan.seq_len,
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
        share_embeddings_and_output_weights=model.tied_embeddings,
        rotary_percent=1.0 if model.rope_dim is None else model.rope_dim / model.head_dim,
        rotary_base=model.rope_theta,
        vp_stage=stage,
        **options,
    )
    return chunk


def time_messages(clock: PhaseClock) -> None:
    """Let the schedules of this process mark the time that they wait for messages of other pipeline stages."""
    communicate = P2PCommunicator._communicate  # noqa: SLF001 (all messages pass through it, and nothing public does)

    def timed(communicator: Any, **options: Any) -> Any:
        clock.mark("backward")  # an end of forward is marked already
        tensor_prev, tensor_next, works = communicate(communicator, **options)
        clock.mark("pipeline_wait")
        if isinstance(works, dict):  # the interleaved schedule waits for them later
            works = {name: _TimedWork(work, clock=clock) for name, work in works.items()}
        return tensor_prev, tensor_next, works

    P2PCommunicator._communicate = timed  # noqa: SLF001 (as above)


class _TimedWork:
    """Message under way.

    Args:
        work: Work of torch.distributed.
        clock: Clock that the wait is marked on.
    """

    def __init__(self, work: Any, *, clock: PhaseClock) -> None:
        self._work = work
        self._clock = clock

    def wait(self) -> Any:
        """Wait for the message."""
        self._clock.mark("backward")
        result = self._work.wait()
        self._clock.mark("pipeline_wait")
        return result


def _group(group: ProcessGroup) -> ProcessGroup | None:
    """Return a group as RankMesh has it: None for a group of one."""
    return group if group.size() > 1 else None
