"""A checkout of Megatron-Bridge in little: its training script, a recipe, a benchmark and their helpers."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.frameworks.megatron_files import write_text

RECIPES: Final = "src/megatron/bridge/recipes/tiny/tiny.py"
BENCHMARKS: Final = "src/megatron/bridge/perf_recipes/tiny/h100/tiny.py"
FILES: Final = {
    "scripts/training/run_recipe.py": "",
    "src/megatron/bridge/recipes/common.py": """\
from megatron.bridge.training.config import ConfigContainer, GPTDatasetConfig, TrainingConfig
from megatron.core.distributed import DistributedDataParallelConfig


def base_config():
    cfg = ConfigContainer(
        model=None,
        train=TrainingConfig(train_iters=1000, global_batch_size=32, micro_batch_size=1),
        dataset=GPTDatasetConfig(seq_length=4096, blend=None),
        ddp=DistributedDataParallelConfig(use_distributed_optimizer=True),
        mixed_precision="bf16_mixed",
    )
    cfg.rng.seed = 1234
    return cfg
""",
    RECIPES: """\
from megatron.bridge.models import AutoBridge
from ..common import base_config


def tiny_pretrain_config():
    cfg = base_config()
    cfg.model = AutoBridge.from_hf_pretrained("meta-llama/Llama-3.1-8B").to_megatron_provider(load_weights=False)
    cfg.model.tensor_model_parallel_size = 2
    cfg.model.pipeline_model_parallel_size = 1
    cfg.model.sequence_parallel = True
    cfg.model.recompute_granularity = "selective"
    cfg.train.micro_batch_size = 2
    return cfg


def tiny_sft_config():
    from megatron.bridge.training.config import FinetuningDatasetConfig

    cfg = tiny_pretrain_config()
    cfg.dataset = FinetuningDatasetConfig(seq_length=2048)
    return cfg


def not_a_recipe():
    return 3
""",
    BENCHMARKS: """\
from megatron.bridge.perf_recipes.shared import balanced
from megatron.bridge.recipes.tiny.tiny import tiny_pretrain_config


def tiny_pretrain_16gpu_h100_fp8cs_config():
    cfg = tiny_pretrain_config()
    cfg.mixed_precision = "bf16_with_fp8_current_scaling_mixed"
    cfg.train.global_batch_size = 64
    balanced(cfg)
    return cfg
""",
    "src/megatron/bridge/perf_recipes/shared.py": """\
def balanced(cfg, is_forced=True):
    cfg.model.moe_router_force_load_balancing = is_forced
""",
    "src/megatron/bridge/training/mixed_precision.py": """\
from dataclasses import dataclass


@dataclass
class MixedPrecisionConfig:
    fp32: bool = False
    fp16: bool = False
    bf16: bool = False
    fp8: str | None = None
    fp4: str | None = None
    fp8_recipe: str = "tensorwise"


def bf16_mixed():
    return MixedPrecisionConfig(bf16=True)


def fp16_mixed():
    return MixedPrecisionConfig(fp16=True)


def bf16_with_fp8_current_scaling_mixed():
    cfg = bf16_mixed()
    cfg.fp8 = "hybrid"
    cfg.fp8_recipe = "tensorwise"
    return cfg


def bf16_with_mxfp8_mixed():
    cfg = bf16_mixed()
    cfg.fp8 = "e4m3"
    cfg.fp8_recipe = "mxfp8"
    return cfg


def bf16_with_nvfp4_mixed():
    cfg = bf16_mixed()
    cfg.fp4 = "e2m1"
    return cfg
""",
}


def make_checkout(root: Path) -> Path:
    """Write the files, and return the root."""
    for name, text in FILES.items():
        write_text(root / name, text)
    return root


def add_recipe(root: Path, body: str, *, imports: str = "") -> str:
    """Add a recipe that changes the little one, and return its name for ``framework_config``."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    text = (
        f"from megatron.bridge.recipes.tiny.tiny import tiny_pretrain_config\n{imports}\n\n"
        f"def changed_config():\n    cfg = tiny_pretrain_config()\n{lines}    return cfg\n"
    )
    path = write_text(root / "src/megatron/bridge/recipes/tiny/changed.py", text)
    return f"{path}:changed_config"
