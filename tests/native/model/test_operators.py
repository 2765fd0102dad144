"""Operators with a backward of their own, against the same written with plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (torch's own convention)
from torch import Tensor

from pytest_nemoperf.native.model.operators import copy_rows, cross_entropy, rms_norm, rotate, split_heads, swiglu
from pytest_nemoperf.native.model.rope import _rotary_angles, _rotary_frequencies


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), requires_grad=True)


def angles_of(seq_len: int, *, size: int) -> tuple[Tensor, Tensor]:
    cos, sin = _rotary_angles(torch.arange(seq_len), _rotary_frequencies(size, theta=100.0))
    return cos.float(), sin.float()


def check_same(ours: Callable[..., Tensor], plain: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Compare values and the gradients of every input, for a gradient that differs in every place."""
    value, expected = ours(*inputs), plain(*inputs)
    grad = torch.linspace(-1, 1, value.numel()).reshape(value.shape)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, inputs, grad), torch.autograd.grad(expected, inputs, grad))


def test_rms_norm_equals_its_formula() -> None:
    def formula(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    check_same(lambda x, weight: rms_norm(x, weight, eps=1e-5), formula, random(6, 10), random(10))


def test_rms_norm_in_bf16_is_near_that_in_fp32() -> None:
    x, weight = random(6, 10).detach(), random(10).detach()

    normed = rms_norm(x.bfloat16(), weight.bfloat16(), eps=1e-5)

    assert normed.dtype is torch.bfloat16
    torch.testing.assert_close(normed.float(), rms_norm(x, weight, eps=1e-5), rtol=0.02, atol=0.02)


def test_swiglu_equals_its_formula() -> None:
    def formula(gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return gate * torch.sigmoid(gate) * up

    check_same(swiglu, formula, random(6, 20))


def test_cross_entropy_equals_torchs() -> None:
    labels = torch.tensor([3, 0, 9, 9])

    check_same(
        lambda logits: cross_entropy(logits, labels),
        lambda logits: F.cross_entropy(logits, labels, reduction="none"),
        random(4, 10),
    )


def test_splitting_heads_rotates_queries_and_keys_by_a_complex_number() -> None:
    cos, sin = angles_of(5, size=8)

    def formula(qkv: Tensor) -> Tensor:
        first, second = qkv[:, :, :6].chunk(2, dim=-1)
        turned = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
        return torch.cat([turned.real, turned.imag], dim=-1)

    def ours(qkv: Tensor) -> Tensor:
        queries, keys, _ = split_heads(qkv, num_kv_heads=2, angles=(cos, sin))
        assert queries.shape[2] == 4
        return torch.cat([queries, keys], dim=2)

    check_same(ours, formula, random(2, 5, 8, 8))


def test_rotating_leaves_the_columns_behind_the_angles_alone() -> None:
    cos, sin = angles_of(5, size=4)

    def formula(x: Tensor) -> Tensor:
        first, second, rest = torch.split(x, [2, 2, 4], dim=-1)
        turned = torch.complex(first, second) * torch.complex(cos, sin)[:, None]
        return torch.cat([turned.real, turned.imag, rest], dim=-1)

    check_same(lambda x: rotate(x, (cos, sin)), formula, random(2, 5, 3, 8))


def test_copying_rows_equals_indexing() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    check_same(
        lambda x: copy_rows(x, num_copies=2, order_R=order, inverse_R=order.argsort()),
        lambda x: x.repeat_interleave(2, 0)[order],
        random(3, 4),
    )


def test_values_are_not_rotated() -> None:
    cos, sin = angles_of(5, size=8)

    check_same(
        lambda qkv: split_heads(qkv, num_kv_heads=2, angles=(cos, sin))[2],
        lambda qkv: qkv[:, :, 6:],
        random(2, 5, 8, 8),
    )


def test_the_angle_of_a_pair_is_its_position_times_its_frequency() -> None:
    cos, sin = _rotary_angles(torch.arange(4), _rotary_frequencies(4, theta=100.0))

    angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [2.0, 0.2], [3.0, 0.3]], dtype=torch.float64)
    torch.testing.assert_close((cos, sin), (angles.cos(), angles.sin()))


@pytest.mark.parametrize("operator", [swiglu, lambda x: rms_norm(x, x[0], eps=1e-5)], ids=["swiglu", "rms_norm"])
def test_an_operator_leaves_its_input_alone(operator: Callable[[Tensor], Tensor]) -> None:
    x = random(4, 6)
    before = x.detach().clone()

    operator(x).sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    assert torch.equal(x.detach(), before)


@pytest.mark.parametrize(
    "operator",
    [
        pytest.param(
            lambda x: torch.cat(split_heads(x, num_kv_heads=2, angles=angles_of(3, size=4)), dim=2), id="split"
        ),
        pytest.param(lambda x: rotate(x, angles_of(3, size=4)), id="rotate"),
        pytest.param(swiglu, id="swiglu"),
        pytest.param(lambda x: rms_norm(x, torch.linspace(0.5, 1.5, 6), eps=1e-5), id="rms_norm"),
    ],
)
def test_what_the_compiler_sees_instead_computes_the_same(
    operator: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(x: Tensor) -> Tensor:
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        return operator(x)

    check_same(operator, plain, random(2, 3, 8, 6))
