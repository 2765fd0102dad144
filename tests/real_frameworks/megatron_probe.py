"""Program of Megatron-Core's interpreter: print what plans on GPUs become, as its own checks accept them."""

from __future__ import annotations

import json
import sys

from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.trainers.megatron_core.config import ddp_config, optimizer_config, transformer_config

if __name__ == "__main__":
    for line in sys.stdin:
        plan = from_json(Plan, line, subject="plan")
        # Without rotary fusion, whose kernels are transformer-engine's own, latent attention needs nothing of it here.
        config = transformer_config(plan, has_te=plan.model.mla is not None)
        ddp = ddp_config(plan)
        told = {
            "activation": config.activation_func.__name__,
            "is_fused": config.bias_activation_fusion,
            "formats": [str(config.params_dtype), config.fp8, config.fp8_recipe if config.fp8 else None, config.fp4],
            "overlaps": [ddp.overlap_grad_reduce, ddp.overlap_param_gather, config.overlap_p2p_comm],
            "has_bf16_optimizer": optimizer_config(plan).bf16,
            "pieces": config.pipeline_model_parallel_layout is not None,
        }
        print(json.dumps(told))
