"""Mixture of experts (MoE): a router sends each token to a few of many MLPs. No token is dropped.

References:
    Shazeer et al. 2017, https://arxiv.org/abs/1701.06538; DeepSeek-V3, https://arxiv.org/abs/2412.19437,
    section 2.1.2 (groups, score correction); Gale et al. 2022, https://arxiv.org/abs/2211.15841 (dropless)
"""

# T tokens (those the module gets), D hidden (or latent), K experts of a token, E experts, R = T*K rows, one for
# each expert of each token, I width into and O width out of an expert's matrix

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.native.model.layers import Linear, in_dtype
from pytest_nemoperf.native.model.mlp import MLP, activate
from pytest_nemoperf.native.model.operators import contiguous_gradient, copy_rows

_GROUPED_ALIGNMENT = 16  # bytes a row of either operand must be a multiple of


class Router(nn.Module):
    """Top-k router; scores are fp32 (of weights that FSDP gathered in the compute dtype).

    ``correction_E`` is added to the scores for the choice of experts only; training frameworks adjust it to balance
    the load, here it stays at zero.
    """

    def __init__(self, hidden_size: int, moe: MoE, *, is_balanced: bool) -> None:
        super().__init__()
        self.moe = moe
        self.is_balanced = is_balanced
        self.weight = nn.Parameter(torch.empty(moe.num_experts, hidden_size))
        self.bias = nn.Parameter(torch.empty(moe.num_experts)) if moe.router_bias else None
        # A plain tensor: DDP would broadcast a buffer in every step.
        self.correction_E = torch.zeros(moe.num_experts) if moe.has_score_correction else None

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the chosen experts' probabilities (T, K), in fp32, and their ids (T, K)."""
        bias_E: Tensor | None = self.bias
        if bias_E is not None:
            bias_E = bias_E.float()
        logits_TE = F.linear(x_TD.float(), self.weight.float(), bias_E)
        scores_TE = logits_TE.softmax(-1) if self.moe.router == "softmax" else logits_TE.sigmoid()
        ids_TK = self._round_robin(scores_TE) if self.is_balanced else self._best(scores_TE)
        probs_TK = scores_TE.gather(1, ids_TK)
        if self.moe.is_normalized:
            probs_TK = probs_TK / (probs_TK.sum(-1, keepdim=True) + 1e-20)
        return probs_TK * self.moe.scaling_factor, ids_TK

    @torch.no_grad()
    def _best(self, scores_TE: Tensor) -> Tensor:
        moe = self.moe
        if self.correction_E is not None:
            scores_TE = scores_TE + self.correction_E
        if moe.num_groups > 1:
            grouped_TGE = torch.unflatten(scores_TE, 1, (moe.num_groups, -1))
            num_best = 1 if moe.group_score == "max" else 2
            group_scores_TG = grouped_TGE.topk(num_best, dim=-1).values.sum(-1)
            groups_TG = group_scores_TG.topk(moe.topk_groups, dim=-1).indices
            is_closed_TG = torch.ones_like(group_scores_TG, dtype=torch.bool).scatter(1, groups_TG, value=False)
            scores_TE = grouped_TGE.masked_fill(is_closed_TG[:, :, None], -torch.inf).flatten(1)
        return scores_TE.topk(moe.topk, dim=-1).indices

    def _round_robin(self, scores_TE: Tensor) -> Tensor:
        """Assign experts in turn, like the forced load balancing of published benchmarks but without randomness."""
        num_tokens, num_experts = scores_TE.shape
        rows_R = torch.arange(num_tokens * self.moe.topk, device=scores_TE.device)
        return (rows_R % num_experts).view(num_tokens, self.moe.topk)


class ExpertLinear(nn.Module):
    """One matrix per expert, (E, O, I); expert parallelism keeps a contiguous slice of the experts.

    ``cast`` maps the weight and a dtype to the weight in that dtype.
    """

    def __init__(self, num_experts: int, in_features: int, out_features: int, *, has_bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, out_features, in_features))
        self.bias = nn.Parameter(torch.empty(num_experts, out_features)) if has_bias else None
        self.cast: Callable[[Tensor, torch.dtype], Tensor] = in_dtype


class Experts(nn.Module):
    """Routed experts.

    ``exchange`` maps rows sorted by expert, and the rows per expert, to the experts' outputs in the same order; expert
    parallelism replaces it by one that sends rows to their experts' ranks, calls ``compute`` there, and sends the
    outputs back. ``product`` is grouped_product or looped_product; a backward pass in two halves replaces it, too. A
    rank adds ``bias_share`` of the last bias, because the outputs of ranks that split an expert are summed.
    """

    def __init__(self, config: ModelConfig, moe: MoE) -> None:
        super().__init__()
        inner = moe.latent_size or config.hidden_size
        width = moe.ffn_hidden_size
        self.num_experts = moe.num_experts
        self.activation = config.activation
        self.scales_input = moe.scales_input
        self.gate_up: ExpertLinear | None = None
        self.up: ExpertLinear | None = None
        if config.activation.is_gated:
            self.gate_up = ExpertLinear(moe.num_experts, inner, 2 * width, has_bias=config.mlp_bias)
        else:
            self.up = ExpertLinear(moe.num_experts, inner, width, has_bias=config.mlp_bias)
        self.down = ExpertLinear(moe.num_experts, width, inner, has_bias=config.mlp_bias)
        self.product: Product = grouped_product
        self.exchange: Callable[[Tensor, Tensor], Tensor] = self.compute
        self.bias_share = 1.0

    def forward(self, x_TD: Tensor, probs_TK: Tensor, ids_TK: Tensor) -> Tensor:
        """Return the sum of each token's expert outputs, weighted by their probabilities (T, D)."""
        num_copies = ids_TK.shape[1]
        order_R = ids_TK.flatten().argsort(stable=True)
        inverse_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(len(order_R), device=order_R.device))
        counts_E = _count_rows(ids_TK.flatten(), num_experts=self.num_experts)
        x_RD = copy_rows(x_TD, num_copies=num_copies, order_R=order_R, inverse_R=inverse_R)
        probs_TK = probs_TK.to(x_TD.dtype)
        if self.scales_input:
            x_RD = x_RD * copy_rows(probs_TK.view(-1, 1), num_copies=1, order_R=order_R, inverse_R=inverse_R)
        out_RD = self.exchange(x_RD, counts_E)
        out_RD = copy_rows(out_RD, num_copies=1, order_R=inverse_R, inverse_R=order_R)
        out_TKD = torch.unflatten(out_RD, 0, (-1, num_copies))
        if not self.scales_input:
            out_TKD = out_TKD * probs_TK[:, :, None]
        return out_TKD.sum(1)

    def compute(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """Return the outputs of this rank's experts (R, D).

        Args:
            x_RD: Rows sorted by expert.
            counts_E: Rows of each expert of this rank, integers.
        """
        first = self.up if self.gate_up is None else self.gate_up
        assert first is not None  # noqa: S101 (one of them is there)
        expert_R = None
        if first.bias is not None or self.down.bias is not None:
            experts_E = torch.arange(len(counts_E), device=counts_E.device)
            expert_R = experts_E.repeat_interleave(counts_E, output_size=x_RD.shape[0])
        hidden_RF = _add_bias(self.product(x_RD, first.cast(first.weight, x_RD.dtype), counts_E), first.bias, expert_R)
        hidden_RF = activate(hidden_RF, self.activation)
        out_RD = self.product(hidden_RF, self.down.cast(self.down.weight, x_RD.dtype), counts_E)
        bias_ED: Tensor | None = self.down.bias
        if bias_ED is not None:
            bias_ED = bias_ED * self.bias_share
        return _add_bias(out_RD, bias_ED, expert_R)


class MixtureOfExperts(nn.Module):
    """Router, routed experts, and shared experts for every token."""

    def __init__(self, config: ModelConfig, *, is_balanced: bool) -> None:
        super().__init__()
        moe = config.moe
        assert moe is not None  # noqa: S101 (the caller checked it)
        hidden = config.hidden_size
        self.router = Router(hidden, moe, is_balanced=is_balanced)
        self.latent_down: Linear | None = None
        self.latent_up: Linear | None = None
        if moe.latent_size is not None:
            self.latent_down = Linear(hidden, moe.latent_size)
            self.latent_up = Linear(moe.latent_size, hidden)
        self.experts = Experts(config, moe)
        self.shared: MLP | None = None
        if moe.shared_ffn_hidden_size:
            self.shared = MLP(config, width=moe.shared_ffn_hidden_size)
        self.shared_gate = Linear(hidden, 1) if moe.shared_gate else None

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return the output of routed and shared experts (T, D)."""
        probs_TK, ids_TK = self.router(x_TD)
        routed_TD = x_TD
        if self.latent_down is not None:
            routed_TD = self.latent_down(x_TD)
        out_TD: Tensor = self.experts(routed_TD, probs_TK, ids_TK)
        if self.latent_up is not None:
            out_TD = self.latent_up(out_TD)
        if self.shared is None:
            return out_TD
        shared_TD: Tensor = self.shared.down.add_bias(self.shared(x_TD))
        if self.shared_gate is not None:
            shared_TD = shared_TD * torch.sigmoid(self.shared_gate(x_TD))
        return out_TD + shared_TD


Product = Callable[[Tensor, Tensor, Tensor], Tensor]


def grouped_product(x_RI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    """Return every row times its expert's matrix (R, O) in one call, or by looped_product if torch has no kernel."""
    weight_EOI = weight_EOI.to(x_RI.dtype)
    problem = _grouped_problem(x_RI, weight_EOI)
    if problem:
        _warn_once(problem)
        return looped_product(x_RI, weight_EOI, counts_E)
    if x_RI.shape[0] == 0:
        return looped_product(x_RI, weight_EOI, counts_E)  # grouped kernels take no empty operand
    ends_E = counts_E.cumsum(0, dtype=torch.int32)
    return contiguous_gradient(F.grouped_mm(x_RI, weight_EOI.transpose(1, 2), offs=ends_E))


def looped_product(x_RI: Tensor, weight_EOI: Tensor, counts_E: Tensor) -> Tensor:
    """Return every row times its expert's matrix (R, O), expert by expert; the counts are copied to the host."""
    weight_EOI = weight_EOI.to(x_RI.dtype)
    rows_E = torch.split(x_RI, counts_E.tolist())
    return torch.cat([F.linear(rows_I, weight_OI) for rows_I, weight_OI in zip(rows_E, weight_EOI, strict=True)])


def experts_weight_gradient(grad_RO: Tensor, x_RI: Tensor, counts_E: Tensor, *, weight_EOI: Tensor) -> Tensor:
    """Return the gradient of the experts' matrices (E, O, I) by a product, from its input and its output's gradient."""
    if x_RI.shape[0] > 0 and not _grouped_problem(x_RI, weight_EOI):
        ends_E = counts_E.cumsum(0, dtype=torch.int32)
        return F.grouped_mm(grad_RO.contiguous().t(), x_RI, offs=ends_E)
    counts = counts_E.tolist()
    pairs = zip(torch.split(grad_RO, counts), torch.split(x_RI, counts), strict=True)
    return torch.stack([grad_O.t() @ rows_I for grad_O, rows_I in pairs])


def _grouped_problem(x_RI: Tensor, weight_EOI: Tensor) -> str:
    """Return the reason torch's grouped product can't take these operands, or an empty string."""
    if not hasattr(F, "grouped_mm"):
        return f"torch {torch.__version__} has no grouped_mm"
    if torch.compiler.is_compiling() and x_RI.dtype != torch.bfloat16:
        return f"grouped_mm takes bfloat16 in a compiled block, not {x_RI.dtype}"
    if x_RI.is_cuda and x_RI.dtype != torch.bfloat16:
        return f"grouped_mm on CUDA takes bfloat16, not {x_RI.dtype}"
    for size in weight_EOI.shape[1:]:
        if size * x_RI.element_size() % _GROUPED_ALIGNMENT:
            return f"grouped_mm needs rows of a multiple of {_GROUPED_ALIGNMENT} bytes, not {size} x {x_RI.dtype}"
    return ""


def _count_rows(ids_R: Tensor, *, num_experts: int) -> Tensor:
    """Count the rows of each expert (E); unlike bincount, without a synchronisation with the device."""
    counts_E = torch.zeros(num_experts, dtype=torch.int64, device=ids_R.device)
    return counts_E.scatter_add_(0, ids_R, torch.ones_like(ids_R))


def _add_bias(out_RO: Tensor, bias_EO: Tensor | None, expert_R: Tensor | None) -> Tensor:
    if bias_EO is None or expert_R is None:
        return out_RO
    return out_RO + bias_EO.to(out_RO.dtype).index_select(0, expert_R)


@cache
def _warn_once(problem: str) -> None:
    warnings.warn(f"{problem}; experts run one by one, which is slower", stacklevel=2)
