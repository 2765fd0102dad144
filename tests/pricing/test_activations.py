"""Activations of DeepSeek-V4: by hand, and from below those that transformers' own class keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import HyperConnections
from pytest_nemoperf.models.huggingface.read import read_config
from pytest_nemoperf.pricing.activations import ActivationBytes
from pytest_nemoperf.pricing.memory import stage_memory
from pytest_nemoperf.pricing.traffic import axis_traffic
from pytest_nemoperf.recipes.recipe import Plan
from tests.builders import ROUND_MODEL, make_plan

CONFIG = Path(__file__).parents[1] / "data" / "hf" / "deepseek-v4"
FLASH = find_model("deepseek-v4-flash")


def plan_of(model: ModelConfig, *, seq_len: int, layout: Layout | None = None) -> Plan:
    return make_plan(
        model=model,
        layouts={"cpu": layout or Layout(gpus=1)},
        seq_len=seq_len,
        global_batch_size=2,
        micro_batch_size=1,
    )


def kept_by_transformers(seq_len: int) -> int:
    """Return bytes that autograd holds after a forward pass of transformers' class, weights left out."""
    config = transformers.AutoConfig.from_pretrained(CONFIG)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", experts_implementation="eager"
    )
    table = torch.arange(config.vocab_size)[:, None] % 4 * 2 + torch.arange(config.num_experts_per_tok)
    for layer in model.model.layers[:2]:
        layer.mlp.gate.tid2eid.copy_(table)
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor
        return tensor

    tokens = torch.randint(config.vocab_size, (1, seq_len))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(tokens, labels=tokens, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_what_is_counted_is_less_than_transformers_class_keeps() -> None:
    model = replace(read_config(CONFIG), mtp_num_layers=0)

    counted = stage_memory(plan_of(model, seq_len=128), pp_rank=0).activations

    assert 0 < counted < kept_by_transformers(128)


@pytest.mark.parametrize(
    ("layer", "width"),
    [
        # latents of queries twice, queries three times, keys twice, latents of outputs; then compressed positions
        pytest.param(0, 2 * 1024 + 3 * 64 * 512 + 2 * 512 + 8 * 1024, id="window"),
        pytest.param(3, 2 * 1024 + 3 * 64 * 512 + 4 * 512 + 8 * 1024 + 2 * 512 / 128, id="ratio 128"),
        pytest.param(
            2,
            2 * 1024 + 3 * 64 * 512 + 6 * 512 + 8 * 1024 + 2 * 512 / 4 + 64 * 129 + 4 * 128 + 512,
            id="ratio 4, with the places an indexer chose",
        ),
    ],
)
def test_inputs_and_outputs_of_products_are_counted_once(layer: int, width: float) -> None:
    costs = ActivationBytes(plan_of(FLASH, seq_len=4096))

    kept = costs.layer(replace(FLASH.layers[layer], feed_forward=None))

    streams = 4096 * (5 * 4096 + 24) * 4  # four and the part's output, and what weighs them
    norm = 4096 * (2 * 4096 + 1) * 4  # its input, and the first product's, in fp32 on a CPU
    assert kept.selective == 4096 * width * 4 + streams + norm
    assert kept.whole - kept.selective == 4096 * 64 * 4
    assert kept.block_input == 4096 * 4 * 4096 * 4


def test_stages_pass_all_residual_streams_on() -> None:
    layout = Layout(gpus=2, pp=2)
    one = plan_of(ROUND_MODEL, seq_len=32, layout=layout)
    four = replace(one, model=replace(ROUND_MODEL, hyper_connections=HyperConnections(num_streams=4, num_iterations=2)))

    sent = [axis_traffic(plan, stages=(0, 1))[0] for plan in (one, four)]

    assert [axis.axis for axis in sent] == ["pp", "pp"]
    assert sent[1].bytes_per_step == 4 * sent[0].bytes_per_step
