"""Steps of TRL's GRPOTrainer on request; ``peers.py`` starts this script and describes its input and output.

The trainer runs unmodified; a subclass takes the time of three of its methods. Model, tokenizer and prompts are made
here and loaded from a directory, as a user's are.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

MAX_STEPS = 1_000_000  # it stops when stdin ends


class NoMoreStepsError(Exception):
    """Stdin ended."""


class TimedTrainer(GRPOTrainer):  # type: ignore[misc]  # trl is not followed by mypy
    """GRPOTrainer that keeps the seconds of the rollout, and of its generation and log-probabilities."""

    seconds: dict[str, float]

    def _generate_and_score_completions(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("rollout"):
            return super()._generate_and_score_completions(*args, **kwargs)

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self._timed("generation"):
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():  # the loss asks for the policy's, as part of training
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)
        with self._timed("logprobs"):
            return super()._get_per_token_logps_and_entropies(*args, **kwargs)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start


class StepsOnDemand(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Waits between steps for requests on stdin, and answers with the times of the steps."""

    def __init__(self, answer: Callable[[object], None]) -> None:
        self.trainer: TimedTrainer | None = None
        self._answer = answer
        self._num_ordered = 0
        self._steps: list[dict[str, float]] = []
        self._start = 0.0
        self._num_tokens = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Wait for a request if none is open, then start the clock: the time between steps is not counted."""
        del args, kwargs
        if self._num_ordered == len(self._steps):
            if self._steps:
                self._answer(self._steps)
            line = sys.stdin.readline()
            if not line:
                raise NoMoreStepsError
            self._num_ordered = int(line)
            self._steps = []
        assert self.trainer is not None
        self.trainer.seconds = {}
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Keep the times of the step, optimizer included."""
        del args, kwargs
        assert self.trainer is not None
        self._steps.append({"step": time.perf_counter() - self._start, **self.trainer.seconds})

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keep the trainer's own token counts of the step; it logs after the step's end."""
        del args, state, control, kwargs
        if self._steps:
            self._steps[-1] |= {
                "num_tokens": int(logs["num_tokens"] - self._num_tokens),  # it counts on from step to step
                "min_response": logs["completions/min_length"],
                "max_response": logs["completions/max_length"],
            }
            self._num_tokens = logs["num_tokens"]


def save_model(folder: Path, *, workload: dict[str, Any]) -> None:
    """Save a random model of the workload's shape."""
    config = LlamaConfig(
        vocab_size=workload["vocab_size"],
        hidden_size=workload["hidden_size"],
        intermediate_size=workload["ffn_hidden_size"],
        num_hidden_layers=workload["num_layers"],
        num_attention_heads=workload["num_heads"],
        num_key_value_heads=workload["num_kv_heads"],
        head_dim=workload["head_dim"],
        rms_norm_eps=workload["norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": workload["rope_theta"]},
        max_position_embeddings=workload["seq_len"] + 1,  # at the very limit generation warns
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=workload["vocab_size"],  # outside the model's vocabulary: no response ends early
        pad_token_id=workload["vocab_size"] - 1,
        dtype="float32",
    )
    torch.manual_seed(workload["seed"])
    LlamaForCausalLM(config).save_pretrained(folder)


def save_tokenizer(folder: Path, *, vocab_size: int) -> None:
    """Save a tokenizer with the token numbers as words; its stop token is outside the model's vocabulary."""
    pad = "<pad>"
    stop = "<stop>"
    words = {str(token): token for token in range(vocab_size - 1)} | {pad: vocab_size - 1, stop: vocab_size}
    tokenizer = Tokenizer(WordLevel(words, unk_token=stop))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=stop, pad_token=pad, padding_side="left"
    ).save_pretrained(folder)


def reward(completions: list[str], **kwargs: object) -> list[float]:
    """Return cheap rewards that differ between responses."""
    del kwargs
    return [float(len(completion) % 7) for completion in completions]


def make_trainer(workload: dict[str, Any], *, folder: Path, on_demand: StepsOnDemand) -> TimedTrainer:
    """Return the trainer of the workload: one generation and one optimizer update a step, all samples at once."""
    samples = workload["num_prompts_per_step"] * workload["num_generations_per_prompt"]
    arguments = GRPOConfig(
        output_dir=str(folder / "output"),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=samples,
        num_generations=workload["num_generations_per_prompt"],
        max_completion_length=workload["response_len"],
        temperature=1.0,
        beta=workload["kl_coef"],
        loss_type="grpo",
        learning_rate=workload["learning_rate"],
        lr_scheduler_type="constant",
        max_steps=MAX_STEPS,
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        shuffle_dataset=False,
        seed=workload["seed"],
    )
    prompts = [" ".join(map(str, prompt)) for prompt in workload["prompts"]]
    trainer = TimedTrainer(
        model=str(folder / "model"),
        args=arguments,
        reward_funcs=reward,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(folder / "model"),
        callbacks=[on_demand],
    )
    on_demand.trainer = trainer
    return trainer


def main() -> None:
    """Serve steps of a workload, given as JSON in the only argument."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep output of libraries out of the answers
    workload = json.loads(sys.argv[1])
    torch.set_num_threads(workload["num_threads"])
    on_demand = StepsOnDemand(lambda steps: print(json.dumps(steps), file=answers))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model", workload=workload)
        save_tokenizer(folder / "model", vocab_size=workload["vocab_size"])
        trainer = make_trainer(workload, folder=folder, on_demand=on_demand)
        try:
            trainer.train()
        except NoMoreStepsError:
            return


if __name__ == "__main__":
    main()
