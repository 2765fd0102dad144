from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from pytest_nemoperf.models.huggingface.export import huggingface_config
from pytest_nemoperf.native.rl.generate.huggingface_weights import huggingface_weights
from tests.native.tiny import build, tiny_config, tiny_plan

TOKENS = torch.arange(32).view(2, 16) * 7 % 64


def logits_of(peer: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = peer(TOKENS).logits
    return logits


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="llama"),
        pytest.param({"qkv_bias": True, "out_bias": True}, id="llama-biases"),
        pytest.param({"sliding_window": 5}, id="mistral"),
        pytest.param({"qkv_bias": True, "tied_embeddings": True}, id="qwen2-tied"),
        pytest.param({"qk_norm": "rms"}, id="qwen3"),
    ],
)
def test_transformers_computes_the_same_with_what_is_exported(changes: dict[str, Any]) -> None:
    plan = tiny_plan(model=tiny_config(**changes))
    ours = build(plan)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():  # none at its start value of 0 or 1
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
        expected = ours.logits(TOKENS)
    values = huggingface_config(plan.model, max_positions=16)
    config = transformers.AutoConfig.for_model(**values, attn_implementation="eager", pad_token_id=None)
    peer = transformers.AutoModelForCausalLM.from_config(config).eval()

    peer.load_state_dict(dict(huggingface_weights(plan.model, weights=ours.state_dict())), strict=True)

    torch.testing.assert_close(logits_of(peer), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():  # control: one weight is another
        peer.model.layers[0].self_attn.v_proj.weight.mul_(1.1)
    assert not torch.allclose(logits_of(peer), expected, rtol=1e-4, atol=1e-5)
