"""One rank of GRPO with TRL: the plan's model and made-up prompts, trained by trl.GRPOTrainer as it is."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, Final

import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from trl.extras.profiling import ProfilingContext

from pytest_nemoperf.integrations.transformers import TrainerSteps
from pytest_nemoperf.models.huggingface.export import huggingface_config
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.device import available_cores
from pytest_nemoperf.native.rl.generate.huggingface_weights import huggingface_weights
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.trainers.run_plan import run_directory, run_plan
from pytest_nemoperf.trainers.weights import drawing_device, whole_weight

_END: Final = "<end>"
_PAD: Final = "<pad>"
_PREPARE: Final = "_prepare_inputs"
_LOGPROBS: Final = "_get_per_token_logps_and_entropies"
_PHASES: Final = {
    "transformers.generate": "generation",
    "vLLM.generate": "generation",
    "sync_weights": "refit",
    "_calculate_rewards": "reward",
}
"""Phase by the name of a part that GRPOTrainer times for its own logs."""


def main() -> None:
    """Train the run's plan on this rank."""
    plan = run_plan()
    rl = plan.rl
    assert rl is not None  # noqa: S101 (the adapter refuses other plans)
    if plan.device == "cpu":
        torch.set_num_threads(max(1, available_cores() // int(os.environ["LOCAL_WORLD_SIZE"])))
    arguments = GRPOConfig(**json.loads(Path(os.environ["NEMOPERF_GRPO"]).read_text(encoding="utf-8")))
    tokenizer = make_tokenizer(plan.model.vocab_size)
    model = make_model(plan)
    folder = run_directory() / "model"
    if rl.generator == "vllm" or rl.algorithm_config.has_reference:  # both are loaded from a folder
        with arguments.main_process_first(local=False):
            if arguments.process_index == 0:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        model = str(folder)
    steps = PhasedSteps(has_old_logprobs=plan.num_updates > 1)
    steps.listen()
    trainer = GRPOTrainer(
        model=model,
        args=arguments,
        reward_funcs=half_of_vocabulary(plan.model.vocab_size),
        train_dataset=make_prompts(plan, rl=rl),
        processing_class=tokenizer,
        callbacks=[steps],
    )
    try:
        trainer.train()
    finally:
        if arguments.process_index == 0:
            shutil.rmtree(folder, ignore_errors=True)


def make_model(plan: Plan) -> Any:
    """Return the plan's model with the weights that the native engine starts from, fp32."""
    config = AutoConfig.for_model(**huggingface_config(plan.model, max_positions=plan.seq_len))
    config.eos_token_id, config.pad_token_id = _special_ids(plan.model.vocab_size)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    device = drawing_device(plan)
    weights = {}
    for weight in model_weights(plan.model):
        weights[weight.name] = whole_weight(plan, weight.name, device=device).cpu()
    model.load_state_dict(dict(huggingface_weights(plan.model, weights=weights)))
    return model


def make_tokenizer(vocab_size: int) -> Any:
    """Return a tokenizer of words, a token each: those of the vocabulary's rows."""
    vocabulary = {f"w{number}": number for number in range(vocab_size - 2)}
    end, pad = _special_ids(vocab_size)
    vocabulary |= {_END: end, _PAD: pad}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=_PAD))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, pad_token=_PAD, padding_side="left")


def make_prompts(plan: Plan, *, rl: RL) -> Any:
    """Return the prompts of all steps, of the plan's lengths."""
    source = random.Random(plan.seed)  # noqa: S311 (no secret)
    prompts = []
    for _ in range(plan.total_steps):
        for number in range(rl.num_prompts_per_step):
            words = [f"w{source.randrange(plan.model.vocab_size - 2)}" for _ in range(rl.prompt_length(number))]
            prompts.append(" ".join(words))
    return Dataset.from_dict({"prompt": prompts})


def half_of_vocabulary(vocab_size: int) -> Any:
    """Return a reward: the share of a response's tokens in the lower half of the vocabulary."""

    def reward(completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
        del kwargs
        rewards = []
        for tokens in completion_ids:
            low = sum(token < vocab_size // 2 for token in tokens)
            rewards.append(low / max(1, len(tokens)))
        return rewards

    return reward


class PhasedSteps(TrainerSteps):
    """Step records with phases: the parts that GRPOTrainer times for its own logs, and the rest of each update.

    Args:
        has_old_logprobs: The policy's own log-probabilities are computed before those of the reference.
    """

    def __init__(self, *, has_old_logprobs: bool) -> None:
        super().__init__()
        self._has_old_logprobs = has_old_logprobs
        self._is_preparing = False
        self._is_old_due = False
        self._open: list[tuple[str, Any]] = []  # name of the part that opened a phase, and the phase

    def listen(self) -> None:
        """Follow the parts that GRPOTrainer times."""
        enter, leave = ProfilingContext.__enter__, ProfilingContext.__exit__

        def enter_and_tell(context: Any) -> Any:
            self._enter(context.name.partition(".")[2])
            return enter(context)

        def leave_and_tell(context: Any, *error: Any) -> Any:
            self._leave(context.name.partition(".")[2])
            return leave(context, *error)

        ProfilingContext.__enter__, ProfilingContext.__exit__ = enter_and_tell, leave_and_tell

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """End the phase of training before the clock stops."""
        self._end_phase()
        return super().on_step_end(args, state, control, **kwargs)

    def _enter(self, part: str) -> None:
        if part == _PREPARE:
            self._end_phase()
            self._is_preparing = True
            self._is_old_due = self._has_old_logprobs
        elif self._is_preparing and not self._open:
            phase = _PHASES.get(part, "")
            if part == _LOGPROBS:
                phase = "policy_logprobs" if self._is_old_due else "reference_logprobs"
                self._is_old_due = False
            if phase:
                self._begin_phase(part, phase)

    def _leave(self, part: str) -> None:
        if part == _PREPARE:
            self._is_preparing = False
            self._begin_phase(part, "training")
        elif self._open and self._open[-1][0] == part:
            self._end_phase()

    def _begin_phase(self, part: str, phase: str) -> None:
        opened = self._steps.phase(phase)
        opened.__enter__()
        self._open.append((part, opened))

    def _end_phase(self) -> None:
        if self._open:
            self._open.pop()[1].__exit__(None, None, None)


def _special_ids(vocab_size: int) -> tuple[int, int]:
    """Return the last two tokens: end and padding."""
    return vocab_size - 2, vocab_size - 1


if __name__ == "__main__":
    main()
