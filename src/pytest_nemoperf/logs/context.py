"""Plan of a logged run, as far as its log is read against it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContext:
    """Plan of a logged run, as far as its log is read against it.

    Attributes:
        num_gpus: Ranks that the tokens are divided by.
        tokens_per_step: Tokens of all ranks in one step as planned; the most if they differ.
        seq_len: Tokens per sequence.
        has_exact_tokens: Every step has tokens_per_step tokens.
        is_rl: Reinforcement learning.
        flops_per_token: Model FLOPs per token; None if not known.
        logged_flops_per_token: The same as the program that logs counts them; None if that is not known.
        warmup_steps: Steps at the beginning that are not judged.
        num_samples: Responses of a step of reinforcement learning; 0 for other workloads.
        num_updates: Optimizer updates of a step.
    """

    num_gpus: int
    tokens_per_step: int
    seq_len: int
    has_exact_tokens: bool
    is_rl: bool = False
    flops_per_token: float | None = None
    logged_flops_per_token: float | None = None
    warmup_steps: int = 0
    num_samples: int = 0
    num_updates: int = 1
