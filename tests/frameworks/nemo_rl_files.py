"""Recipe files for NeMo RL, with the settings that a plan takes values from."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.frameworks.configs.yaml_file import set_option

GRPO: Final[dict[str, Any]] = {
    "grpo": {"num_prompts_per_step": 32, "num_generations_per_prompt": 16, "max_num_steps": 100, "seed": 42},
    "loss_fn": {"ratio_clip_min": 0.2, "ratio_clip_max": 0.28, "reference_policy_kl_penalty": 0.01},
    "policy": {
        "model_name": "meta-llama/Llama-3.1-8B-Instruct",
        "train_global_batch_size": 512,
        "train_micro_batch_size": 2,
        "max_total_sequence_length": 4096,
        "precision": "bfloat16",
        "dtensor_cfg": {"enabled": True, "tensor_parallel_size": 2, "sequence_parallel": False},
        "megatron_cfg": {"enabled": False},
        "optimizer": {"kwargs": {"lr": 3e-7}},
        "generation": {
            "backend": "vllm",
            "max_new_tokens": 3072,
            "temperature": 1.0,
            "colocated": {"enabled": True},
            "vllm_cfg": {"tensor_parallel_size": 4},
        },
    },
    "data": {"train": {"dataset_name": "org/OpenMath"}, "max_input_seq_length": 1024},
    "cluster": {"num_nodes": 2, "gpus_per_node": 8},
}
"""On-policy GRPO of 16 ranks, sharded."""
MEGATRON: Final[dict[str, Any]] = {
    "policy.dtensor_cfg.enabled": False,
    "policy.megatron_cfg": {
        "enabled": True,
        "tensor_model_parallel_size": 4,
        "pipeline_model_parallel_size": 2,
        "context_parallel_size": 1,
        "sequence_parallel": True,
        "optimizer": {"lr": 5e-7},
    },
}
"""Changes of GRPO for the Megatron backend."""
SFT: Final[dict[str, Any]] = {
    "sft": {"max_num_steps": 10, "seed": 3},
    "policy": {
        "model_name": "meta-llama/Llama-3.1-8B",
        "train_global_batch_size": 64,
        "train_micro_batch_size": 1,
        "max_total_sequence_length": 2048,
        "dtensor_cfg": {"enabled": True},
    },
    "cluster": {"num_nodes": 1, "gpus_per_node": 8},
}
"""Supervised fine-tuning of 8 ranks."""


def write_file(path: Path, base: dict[str, Any], changes: dict[str, Any] | None = None) -> Path:
    """Write a file with changes by dotted name, and return its path."""
    data = copy.deepcopy(base)
    for name, value in (changes or {}).items():
        set_option(data, name, copy.deepcopy(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")  # which is YAML too
    return path
