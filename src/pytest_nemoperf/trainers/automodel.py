"""Parts of NeMo Automodel's recipes that a plan brings: its tokens, its weights, its optimizer.

The generated recipe file names them as targets; all else, from the command line to the loop, is Automodel's.
"""

# S tokens of a sequence, B a micro-batch

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from nemo_automodel.components.optim.optimizer import AdamWConfig
from torch import Tensor, nn
from torch.utils.data import Dataset

from pytest_nemoperf.errors import LaunchError, count_text
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.weights import Weight, model_weights
from pytest_nemoperf.native.parallel.initialize import draw_whole
from pytest_nemoperf.native.rl.generate.huggingface_weights import huggingface_weights
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.recipes.hyperparameters import BETAS, EPS, LEARNING_RATE, WEIGHT_DECAY
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.trainers.run_plan import run_plan
from pytest_nemoperf.trainers.weights import drawing_device, fill

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.")
"""Parts of names that torch.compile and recomputation add; DistributedDataParallel begins names with "module."."""
_EIGHT_BIT_LAYER = "Float8Linear"
_MIXTURE_NAMES = {
    "moe.router.weight": "gate.weight",
    "moe.experts.gate_up.weight": "experts.gate_and_up_projs",
    "moe.experts.down.weight": "experts.down_projs",
}


class PlanTokens(Dataset[dict[str, Tensor]]):
    """Every sequence of a run, in the order of its steps; Automodel's sampler deals them out to the ranks.

    Args:
        seq_len: The plan's, for the recipes that read it here.
        others: Values that recipes add, such as the size of the vocabulary.
    """

    def __init__(self, *, seq_len: int, **others: Any) -> None:  # noqa: ARG002 (recipes add what they like)
        self._plan = run_plan()
        batch = self._plan.global_batch_size
        one_rank = replace(self._plan, layout=Layout(gpus=1), micro_batch_size=batch, grad_accum_steps=1)
        self._tokens = SyntheticTokens(one_rank, dp_rank=0, device=drawing_device(self._plan))
        self._step = -1
        self._positions_S = torch.arange(seq_len)
        self._whole_step: tuple[Tensor, Tensor] = (self._positions_S, self._positions_S)

    def __len__(self) -> int:
        """Return the sequences of all steps."""
        return self._plan.total_steps * self._plan.global_batch_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a sequence: tokens, the next token of each, positions; on the host, as any data set's."""
        step, row = divmod(index, self._plan.global_batch_size)
        if step != self._step:
            ((tokens, labels),) = self._tokens.micro_batches(step)
            self._whole_step = (tokens.cpu(), labels[..., 0].cpu())
            self._step = step
        tokens, labels = self._whole_step
        return {"input_ids": tokens[row], "labels": labels[row], "position_ids": self._positions_S}


def collate(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the micro-batch of some sequences, shape (B, S) each: full ones, so nothing is padded or masked."""
    batch = {}
    for name in rows[0]:
        batch[name] = torch.stack([row[name] for row in rows])
    return batch


@dataclass
class PlanAdamW(AdamWConfig):  # type: ignore[misc]  # (Automodel is in another environment)
    """Automodel's AdamW with the values that every framework trains with here; building it fills in the weights.

    The optimizer is built once the model is sharded and before anything is trained, and its builder gets the model.
    """

    lr: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    betas: tuple[float, float] = BETAS
    eps: float = EPS

    def build(self, model: nn.Module, **context: Any) -> list[torch.optim.Optimizer]:
        """Fill the model with the plan's weights in place, and return its optimizers.

        Raises:
            LaunchError: If the model is not the plan's.
        """
        plan = run_plan()
        parts = getattr(model, "parts", [model])
        fill_weights(parts, plan=plan)
        _check_precision(parts, plan=plan)
        optimizers: list[torch.optim.Optimizer] = super().build(model, **context)
        return optimizers


def fill_weights(parts: Sequence[nn.Module], *, plan: Plan) -> None:
    """Fill the parts of a model that this rank holds: each rank draws a whole weight and keeps its shard.

    Raises:
        LaunchError: If the plan's model has no weight for a parameter.
    """
    parameters: dict[str, Tensor] = {}
    for part in parts:
        parameters.update(_named_parameters(part))
    left = set(parameters)
    for name, weight in _huggingface_weights(plan, wanted=frozenset(parameters)):
        fill(parameters[name], weight)
        left.discard(name)
    if left:
        raise LaunchError(
            f"{plan.case}: NeMo Automodel's model has {count_text(len(left), 'parameter')} that "
            f"{plan.model.name} has no weights for, {min(left)} among them; use a version that was tested"
        )


def _huggingface_weights(plan: Plan, *, wanted: frozenset[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of these names; those of other pipeline stages are not drawn."""
    for weight in model_weights(plan.model):
        mixture_name = _mixture_name(weight.name)
        if mixture_name:
            if mixture_name in wanted:
                yield mixture_name, _drawn(plan, weight)
            continue
        shape_only = {weight.name: torch.empty(weight.shape, device="meta")}
        names = {name for name, _ in huggingface_weights(plan.model, weights=shape_only)}
        if names & wanted:
            for name, part in huggingface_weights(plan.model, weights={weight.name: _drawn(plan, weight)}):
                if name in wanted:
                    yield name, part


def _mixture_name(name: str) -> str:
    """Return Automodel's name of a weight of a mixture of experts; empty for any other weight."""
    for ending, theirs in _MIXTURE_NAMES.items():
        if name.endswith(ending):
            return f"model.layers.{name.split('.')[1]}.mlp.{theirs}"
    return ""


def _drawn(plan: Plan, weight: Weight) -> Tensor:
    """Return a whole weight; experts of Automodel have inputs in rows and outputs in columns."""
    draw = partial(draw_whole, num_layers=plan.model.num_layers, seed=plan.seed, device=drawing_device(plan))
    if not weight.is_expert:
        return draw(weight.name, shape=weight.shape)
    experts = []
    for expert in range(weight.shape[0]):
        experts.append(draw(f"{weight.name} of expert {expert}", shape=(1, *weight.shape[1:])))
    return torch.cat(experts).transpose(1, 2).contiguous()


def _named_parameters(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters by their names in the plain model."""
    for name, parameter in part.named_parameters():
        plain = name
        for wrapper in _WRAPPERS:
            plain = plain.replace(wrapper, "")
        yield plain.removeprefix("module."), parameter


def _check_precision(parts: Sequence[nn.Module], *, plan: Plan) -> None:
    """Check that 8-bit layers are there if they are planned: if they fail, Automodel warns and trains without them.

    Raises:
        LaunchError: If there are none.
    """
    if plan.precision.number_format != "fp8":
        return
    for part in parts:
        for module in part.modules():
            if type(module).__name__ == _EIGHT_BIT_LAYER:
                return
    raise LaunchError(
        f"{plan.case}: precision={plan.precision}, and no layer of NeMo Automodel's model has become one of 8 bits; "
        "its log says why"
    )
