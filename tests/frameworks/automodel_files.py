"""Recipe files for NeMo Automodel, with the settings that a plan takes values from."""

from __future__ import annotations

from typing import Any, Final

TRAINING: Final[dict[str, Any]] = {
    "recipe": "TrainFinetuneRecipeForNextTokenPrediction",
    "step_scheduler": {"global_batch_size": 64, "local_batch_size": 2, "max_steps": 500},
    "rng": {"seed": 17},
    "model": {"_target_": "nemo_automodel.AutoModel.from_pretrained", "pretrained_model_name_or_path": "Qwen/Qwen3-8B"},
    "distributed": {"strategy": "fsdp2", "tp_size": 2, "cp_size": 1, "sequence_parallel": True},
    "dataset": {"_target_": "nemo_automodel.datasets.MockIterableDataset", "seq_len": 2048},
}
"""Pre-training with made-up data, sharded."""
BENCHMARK: Final[dict[str, Any]] = {
    "recipe": {"_target_": "nemo_automodel.recipes.BenchmarkingRecipeForNextTokenPrediction"},
    "benchmark": {"warmup_steps": 10, "peak_tflops": 989},
    "step_scheduler": {"global_batch_size": 256, "local_batch_size": 4, "max_steps": 30},
    "model": {
        "_target_": "nemo_automodel.AutoModel.from_config",
        "config": {"pretrained_model_name_or_path": "Qwen/Qwen3-30B-A3B"},
        "backend": {"fake_balanced_gate": True},
    },
    "distributed": {
        "pp_size": 2,
        "ep_size": 4,
        "activation_checkpointing": True,
        "pipeline": {"pp_schedule": "interleaved1f1b", "pp_microbatch_size": 1, "layers_per_stage": 12},
    },
    "dataset": {"_target_": "nemo_automodel.datasets.MockIterableDataset", "seq_len": 4096},
}
"""Benchmark of a mixture of experts with a pipeline."""
