"""Config module for torchtitan's own program: ``--module pytest_nemoperf.trainers.torchtitan --config from_plan``.

Model, batch, layout, hyperparameters, weights and tokens are those of the run's plan; model code, parallelism, loop,
loss, optimizer and log are torchtitan's.
"""

# G groups of query heads, R heads of a group with its key and value, H width of a head; D columns

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.components.validate import Validator
from torchtitan.config import CommConfig, CompileConfig, DebugConfig, ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.common import ComplexRoPE, CosSinRoPE, Embedding, Linear, RMSNorm, RoPE
from torchtitan.models.common.config_utils import (
    get_attention_config,
    make_ffn_config,
    make_gqa_config,
    make_moe_config,
    make_routed_experts_config,
    make_router_config,
)
from torchtitan.models.common.param_init import skip_param_init
from torchtitan.models.llama3 import parallelize_llama
from torchtitan.models.llama3.model import Llama3Model, Llama3TransformerBlock
from torchtitan.models.qwen3 import parallelize_qwen3
from torchtitan.models.qwen3.model import Qwen3Model, Qwen3TransformerBlock
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.components import FeedForward
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.parallel.initialize import draw_whole
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.recipes import hyperparameters
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recompute
from pytest_nemoperf.trainers.run_plan import run_directory, run_plan
from pytest_nemoperf.trainers.weights import by_query_group, fill, whole_weight

_ACTIVATION_CHECKPOINT = {
    Recompute.NONE: lambda: None,
    Recompute.SELECTIVE: SelectiveAC.Config,
    Recompute.FULL: FullAC.Config,
}


def from_plan() -> Trainer.Config:
    """Return torchtitan's config of the run's plan."""
    plan = run_plan()
    vocab_size = plan.model.vocab_size
    return Trainer.Config(
        model_spec=_model_spec(plan),
        tokenizer=NoTokenizer.Config(),
        dataloader=PlanTokens.Config(),
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=vocab_size)),
        optimizer=default_adamw(
            lr=hyperparameters.LEARNING_RATE,
            betas=hyperparameters.BETAS,
            eps=hyperparameters.EPS,
            weight_decay=hyperparameters.WEIGHT_DECAY,
        ),
        lr_scheduler=LRSchedulersContainer.Config(warmup_steps=0, decay_ratio=0.0, min_lr_factor=1.0),  # constant
        training=_training(plan),
        parallelism=_parallelism(plan),
        activation_checkpoint=_ACTIVATION_CHECKPOINT[plan.recompute](),
        compile=CompileConfig(enable=plan.is_compiled, components=["model"]),
        comm=CommConfig(
            init_timeout_seconds=math.ceil(plan.timeout_sec), train_timeout_seconds=math.ceil(plan.timeout_sec)
        ),
        debug=DebugConfig(seed=plan.seed, moe_force_load_balance=plan.is_router_balanced),
        metrics=MetricsProcessor.Config(log_freq=1, enable_tensorboard=True, disable_color_printing=True),
        dump_folder=str(run_directory() / "torchtitan"),
        checkpoint=CheckpointManager.Config(enable=False),
        validator=Validator.Config(enable=False),
    )


class PlanTokens(BaseDataLoader):  # type: ignore[misc]  # torchtitan is not followed by mypy
    """The tokens that the native engine trains on, a micro-batch at a time; each step delayed in a self-test."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):  # type: ignore[misc]  # as above
        """No options: everything is in the plan."""

    def __init__(self, config: Config, *, dp_rank: int, seq_len: int, local_batch_size: int, **kwargs: Any) -> None:
        del config, kwargs
        self._plan = run_plan()
        self._tokens = SyntheticTokens(self._plan, dp_rank=dp_rank, device=torch.device(self._plan.device))
        self._positions = torch.arange(seq_len).expand(local_batch_size, -1).contiguous()

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield inputs and next tokens."""
        start = time.perf_counter()
        for step in range(self._plan.total_steps):
            if step:
                time.sleep((time.perf_counter() - start) * self._plan.inject_pct / 100)
            start = time.perf_counter()
            for tokens_BS, labels_BSN in self._tokens.micro_batches(step):
                # On the host, as torchtitan's own loaders yield them: it counts labels there.
                yield {"input": tokens_BS.cpu(), "positions": self._positions}, labels_BSN[..., 0].contiguous().cpu()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: no checkpoint is written."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore a state."""


class NoTokenizer(BaseTokenizer):  # type: ignore[misc]  # torchtitan is not followed by mypy
    """In place of a tokenizer: the run has no text."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):  # type: ignore[misc]  # as above
        """No options."""

    def __init__(self, config: Config, *, tokenizer_path: str) -> None:
        del config, tokenizer_path
        self.eos_id = 0

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Refuse text: the plan's tokens are drawn, and torchtitan's training loop asks for none."""
        raise NotImplementedError("runs of plans have no text")

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Refuse tokens, for the same reason."""
        raise NotImplementedError("runs of plans have no text")

    def get_vocab_size(self) -> int:
        """Return the rows of the embedding table."""
        return run_plan().model.vocab_size


def _training(plan: Plan) -> TrainingConfig:
    pipelined = plan.grad_accum_steps if plan.layout.pp > 1 else 1
    return TrainingConfig(
        local_batch_size=plan.micro_batch_size * pipelined,
        global_batch_size=plan.global_batch_size,
        seq_len=plan.seq_len,
        max_norm=hyperparameters.MAX_GRAD_NORM,
        steps=plan.total_steps,
        mixed_precision_param="bfloat16" if plan.precision is Precision.BF16 else "float32",
        disable_cuda_graphs=True,  # as the plan has no word for them; an option turns them on
    )


def _parallelism(plan: Plan) -> ParallelismConfig:
    layout = plan.layout
    return ParallelismConfig(
        data_parallel_replicate_degree=layout.dp_replicate,
        data_parallel_shard_degree=layout.dp_shard,
        tensor_parallel_degree=layout.tp,
        enable_sequence_parallel=layout.sequence_parallel,
        pipeline_parallel_degree=layout.pp,
        pipeline_parallel_schedule="Interleaved1F1B" if layout.vp > 1 else "1F1B",
        pipeline_parallel_microbatch_size=plan.micro_batch_size,
        module_fqns_per_model_part=_stages(plan) if layout.pp > 1 else None,
        context_parallel_degree=layout.cp,
        expert_parallel_degree=layout.ep,
    )


def _stages(plan: Plan) -> list[list[str]]:
    """Return the modules of each pipeline stage, in the order of the model: the layers of the native engine's."""
    layout = plan.layout
    pieces = stage_layers(plan.model, pp=layout.pp, vp=layout.vp)
    stages = []
    for chunk in range(layout.vp):
        for rank in range(layout.pp):
            stages.append([f"layers.{layer}" for layer in pieces[rank][chunk]])
    stages[0].insert(0, "tok_embeddings")
    stages[-1] += ["norm", "lm_head"]
    return stages


def _model_spec(plan: Plan) -> ModelSpec:
    """Return the plan's model as torchtitan's llama3, or its qwen3 for heads with norms and layers of experts."""
    model = plan.model
    is_qwen = model.qk_norm is not None or model.moe is not None
    model_class = Qwen3Model if is_qwen else Llama3Model
    embedding = {"weight": skip_param_init} if model.tied_embeddings else _start(plan, "embedding.weight")
    head = "embedding.weight" if model.tied_embeddings else "head.weight"
    config = model_class.Config(
        dim=model.hidden_size,
        vocab_size=model.vocab_size,
        enable_weight_tying=model.tied_embeddings,
        tok_embeddings=Embedding.Config(
            num_embeddings=model.vocab_size, embedding_dim=model.hidden_size, param_init=embedding
        ),
        layers=[_layer(plan, index, is_qwen=is_qwen) for index in range(model.num_layers)],
        norm=_norm(plan, "norm.weight"),
        lm_head=Linear.Config(
            in_features=model.hidden_size, out_features=model.vocab_size, param_init=_start(plan, head)
        ),
    )
    return ModelSpec(
        name="qwen3" if is_qwen else "llama3",
        flavor=model.name,
        model=config,
        parallelize_fn=parallelize_qwen3 if is_qwen else parallelize_llama,
        pipelining_fn=pipeline_llm,
        post_optimizer_build_fn=None,
        state_dict_adapter=None,
    )


def _layer(plan: Plan, index: int, *, is_qwen: bool) -> Any:
    model = plan.model
    prefix = f"blocks.{index}."
    is_moe = model.layers[index].feed_forward is FeedForward.MOE
    block = Qwen3TransformerBlock if is_qwen else Llama3TransformerBlock
    feed_forward = None
    if not is_moe:
        feed_forward = make_ffn_config(
            dim=model.hidden_size,
            hidden_dim=model.ffn_hidden_size,
            w1_param_init=_start(plan, f"{prefix}mlp.gate_up.weight", change=_gate),
            w2w3_param_init={},
        )
        feed_forward.w2.param_init = _start(plan, f"{prefix}mlp.down.weight")
        feed_forward.w3.param_init = _start(plan, f"{prefix}mlp.gate_up.weight", change=_up)
    return block.Config(
        attention_norm=_norm(plan, f"{prefix}attention_norm.weight"),
        attention=_attention(plan, prefix=f"{prefix}attention."),
        ffn_norm=_norm(plan, f"{prefix}mlp_norm.weight"),
        feed_forward=feed_forward,
        moe=_experts(plan, prefix=f"{prefix}moe.") if is_moe else None,
    )


def _attention(plan: Plan, *, prefix: str) -> Any:
    model = plan.model
    rope = _rope(plan)
    config = make_gqa_config(
        dim=model.hidden_size,
        n_heads=model.num_heads,
        n_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        wqkv_param_init={},
        wo_param_init=_start(plan, f"{prefix}out.weight"),
        inner_attention=get_attention_config("flex"),
        fuse_qkv=True,
        rope=rope,
        qk_norm=_norm(plan, f"{prefix}q_norm.weight", width=model.head_dim) if model.qk_norm else None,
    )
    change = partial(_fused, plan=plan, is_interleaved=isinstance(rope, ComplexRoPE.Config))
    wqkv = config.qkv_linear.wqkv
    wqkv.bias = model.qkv_bias
    wqkv.param_init = _start(plan, f"{prefix}qkv.weight", change=change)
    if model.qkv_bias:
        bias = _start(plan, f"{prefix}qkv.bias", change=change)
        wqkv.param_init["bias"] = bias["weight"]
    return config


def _rope(plan: Plan) -> RoPE.Config:
    """Return rotary positions: of adjacent pairs as llama3 has, or of halves as qwen3 has, which knows no scaling."""
    model = plan.model
    values: dict[str, Any] = {"dim": model.head_dim, "max_seq_len": plan.seq_len, "theta": model.rope_theta}
    if model.qk_norm is not None:
        return CosSinRoPE.Config(**values)
    scaling = model.rope_scaling
    if scaling is not None:
        values |= {
            "scaling": "llama",
            "scaling_factor": scaling.factor,
            "low_freq_factor": scaling.low_freq,
            "high_freq_factor": scaling.high_freq,
            "original_max_position_embeddings": scaling.original_context,
        }
    return ComplexRoPE.Config(**values)


def _experts(plan: Plan, *, prefix: str) -> Any:
    model = plan.model
    moe = model.moe
    assert moe is not None  # noqa: S101 (only layers with experts come here)
    gate_up = _start_experts(plan, f"{prefix}experts.gate_up.weight", change=_gate)
    return make_moe_config(
        num_experts=moe.num_experts,
        load_balance_coeff=None,  # the plan's router is not corrected
        router=make_router_config(
            dim=model.hidden_size,
            num_experts=moe.num_experts,
            gate_param_init=_start(plan, f"{prefix}router.weight"),
            top_k=moe.topk,
            score_func=moe.router,
            route_norm=moe.is_normalized,
            route_scale=moe.scaling_factor,
        ),
        routed_experts=make_routed_experts_config(
            dim=model.hidden_size,
            hidden_dim=moe.ffn_hidden_size,
            num_experts=moe.num_experts,
            top_k=moe.topk,
            comm_backend="standard",
            param_init={
                "w1_EFD": gate_up,
                "w2_EDF": _start_experts(plan, f"{prefix}experts.down.weight"),
                "w3_EFD": _start_experts(plan, f"{prefix}experts.gate_up.weight", change=_up),
            },
        ),
    )


def _norm(plan: Plan, name: str, *, width: int = 0) -> RMSNorm.Config:
    width = width or plan.model.hidden_size
    return RMSNorm.Config(normalized_shape=width, eps=plan.model.norm_eps, param_init=_start(plan, name))


def _gate(gate_up: Tensor) -> Tensor:
    return gate_up.chunk(2, dim=-2)[0]


def _up(gate_up: Tensor) -> Tensor:
    return gate_up.chunk(2, dim=-2)[1]


def _fused(qkv: Tensor, *, plan: Plan, is_interleaved: bool) -> Tensor:
    """Return queries, keys and values as torchtitan fuses them: by group, and pairs of a rotation side by side."""
    model = plan.model
    qkv = by_query_group(qkv, model=model)
    if not is_interleaved:
        return qkv
    rows_GRHD = qkv.reshape(model.num_kv_heads, -1, model.head_dim, qkv[0].numel()).clone()
    rotated = rows_GRHD[:, :-1]
    halves = rotated.reshape(*rotated.shape[:2], 2, model.head_dim // 2, -1)
    rows_GRHD[:, :-1] = halves.transpose(2, 3).reshape(rotated.shape)
    return rows_GRHD.reshape(qkv.shape)


def _start(
    plan: Plan, name: str, *, change: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Callable[[Tensor], None]]:
    """Return torchtitan's initialisation of a module's weight: the value that the native engine starts from."""

    def start(parameter: Tensor) -> None:
        whole = whole_weight(plan, name, device=parameter.device)
        fill(parameter, whole if change is None else change(whole))

    return {"weight": start}


def _start_experts(
    plan: Plan, name: str, *, change: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], None]:
    """Return the same for all routed experts of a layer."""

    def start(parameter: Tensor) -> None:
        shape = next(weight.shape for weight in model_weights(plan.model) if weight.name == name)
        experts = []
        for expert in range(shape[0]):
            experts.append(
                draw_whole(
                    f"{name} of expert {expert}",
                    shape=(1, *shape[1:]),
                    num_layers=plan.model.num_layers,
                    seed=plan.seed,
                    device=parameter.device,
                )
            )
        whole = torch.cat(experts)
        fill(parameter, whole if change is None else change(whole))

    return start
