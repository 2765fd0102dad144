"""Arguments of Megatron-LM as teams keep them: a YAML file, a text file, a shell script."""

from __future__ import annotations

from pathlib import Path
from typing import Final

YAML: Final = """\
ENV_VARS:
  CUDA_DEVICE_MAX_CONNECTIONS: 1
MODEL_ARGS:
  --num-layers: 12
  --hidden-size: 768
  --num-attention-heads: 12
  --max-position-embeddings: 1024
  --tokenizer-type: GPT2BPETokenizer
  --micro-batch-size: 2
  --global-batch-size: 32
  --seq-length: 1024
  --train-iters: 100
  --tensor-model-parallel-size: 2
  --pipeline-model-parallel-size: 2
  --sequence-parallel: true
  --use-distributed-optimizer: true
  --bf16: true
  --fp16: false
  --seed: 1234
  --save: ${CHECKPOINTS}
  --data-path: ${DATA}/tokens
"""
SCRIPT: Final = """\
#!/bin/bash
set -euo pipefail
# A team's launch script.
TP=${1:-1}
GPUS_PER_NODE=${GPUS_PER_NODE:-8}
OUT=$(dirname "$0")/out
mkdir -p "$OUT"

MODEL=(
  --num-layers 12
  --hidden-size 768
  --num-attention-heads 12
  --max-position-embeddings 1024
  --tokenizer-type GPT2BPETokenizer
)
TRAINING=(--micro-batch-size 2 --global-batch-size 32 --seq-length 1024 --train-iters 100 --save "$OUT")
if [ "$TP" -gt 1 ]; then
  MODEL+=(--sequence-parallel)
fi
if [[ "${FORMAT:-bf16}" == fp8 ]]; then
  TRAINING+=(--fp8-format hybrid --fp8-recipe tensorwise)
fi
TRAINING+=(--bf16 --tensor-model-parallel-size "$TP")

torchrun --nproc_per_node "$GPUS_PER_NODE" pretrain_gpt.py "${MODEL[@]}" "${TRAINING[@]}" > "$OUT/log.txt" 2>&1
echo finished > "$OUT/finished"
"""


def write_text(path: Path, text: str) -> Path:
    """Write a file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
