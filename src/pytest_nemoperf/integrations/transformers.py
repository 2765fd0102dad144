"""TrainerSteps: callback that measures Hugging Face's Trainer, and TRL's trainers, which are Trainers too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from transformers import TrainerCallback

from pytest_nemoperf.integrations.step_writer import StepError, StepWriter

_TOKENS_SO_FAR: Final = "num_tokens"
"""Key of TRL's logs: tokens since the start, over all ranks."""
_MEAN_LENGTH: Final = "completions/mean_length"
_CLIPPED_RATIO: Final = "completions/clipped_ratio"
_ROLLOUT_LOGS: Final = {"reward": "reward_mean", "reward_std": "reward_std", "kl": "kl"}
"""Keys of TRL's logs, and of a record's rollout; these are means over the step's responses."""


class TrainerSteps(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Callback that records each step of a Trainer in a perf run; outside of one it does nothing.

    ::

        from pytest_nemoperf.integrations import TrainerSteps

        trainer.add_callback(TrainerSteps())

    A step is an optimizer update with all its micro-batches; of TRL's online trainers it is a generation with all
    updates that train on it. Its time runs to the end of the update, device synchronised at both ends, from the end of
    what the Trainer does after an update: logging, evaluating and saving do not count, loading the batches does.

    In a perf run every step is logged, so that its loss, NaN too, and its rollouts are known; nothing is evaluated or
    saved between steps; and training ends with the plan's last step. Tokens are those that the Trainer counts
    (``include_num_input_tokens_seen``, or TRL's ``num_tokens``), or else the plan's.

    Raises:
        StepError: In a perf run whose plan can't be read.
    """

    def __init__(self) -> None:
        self._steps = StepWriter()
        self._updates_per_step = 1
        self._samples_per_step: int | None = None  # responses; of online trainers only
        self._num_updates = 0
        self._tokens_before: dict[str, int] = {}
        self._logs: dict[str, Any] = {}

    def record(self, **figures: Any) -> None:
        """Record figures of the step that the Trainer does not know, as StepWriter.record does."""
        self._steps.record(**figures)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the size of a step from the Trainer's arguments, and compare them with the plan.

        Raises:
            StepError: If the Trainer trains other batches than the plan's, or too few.
        """
        del control, kwargs
        if not self._steps.is_active:
            return
        self._count_updates(args)
        self._check_plan(args, max_steps=state.max_steps)
        args.logging_nan_inf_filter = False  # with it, the loss of a step that has NaN is logged as 0
        self._begin(state)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a step anew: between epochs a Trainer evaluates and saves."""
        del args, control, kwargs
        self._restart(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Stop the clock after the last update of a step, and have it logged; end the training if it is the last."""
        del args, state, kwargs
        if not self._steps.is_active:
            return control
        self._num_updates += 1
        if self._num_updates % self._updates_per_step == 0:
            self._steps.stop_clock()
            control.should_log = True
        if self._steps.is_done:
            control.should_training_stop = True
        return self._only_train(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Keep the Trainer from evaluating and saving."""
        del args, state, kwargs
        return self._only_train(control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the figures logged of the step; if its clock has stopped, write its record and begin the next."""
        del args, control, kwargs
        if not self._steps.has_open_step or not logs or "loss" not in logs:
            return
        self._logs |= logs
        if self._steps.is_stopped:
            self._finish(state)
            self._begin(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the step anew, after an evaluation before the first."""
        del args, control, kwargs
        self._restart(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the step anew, after a checkpoint that another callback asked for."""
        del args, control, kwargs
        self._restart(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the last record, if nothing was logged of it."""
        del args, control, kwargs
        if self._steps.is_stopped:
            self._finish(state)
        self._steps.cancel_step()

    def _only_train(self, control: Any) -> Any:
        if self._steps.is_active:
            control.should_evaluate = False
            control.should_save = False
        return control

    def _begin(self, state: Any) -> None:
        self._logs = {}
        self._tokens_before["state"] = state.num_input_tokens_seen
        self._steps.begin_step()

    def _restart(self, state: Any) -> None:
        """Begin the open step anew if no update of it is done; write it first if its clock has stopped."""
        if not self._steps.is_active or self._num_updates % self._updates_per_step:
            return
        if self._steps.is_stopped:
            self._finish(state)
        self._steps.cancel_step()
        self._begin(state)

    def _finish(self, state: Any) -> None:
        logs = self._logs
        self._steps.record(
            loss=logs.get("loss"),
            grad_norm=logs.get("grad_norm"),
            tokens=self._tokens_of_step(state),
            rollout=self._rollout(),
        )
        self._steps.end_step()

    def _tokens_of_step(self, state: Any) -> int | None:
        """Return the tokens of the step as the Trainer counts them, or None."""
        tokens = int(state.num_input_tokens_seen - self._tokens_before["state"])
        if _TOKENS_SO_FAR in self._logs:
            so_far = int(self._logs[_TOKENS_SO_FAR])
            before = self._tokens_before.get(_TOKENS_SO_FAR, 0)
            self._tokens_before[_TOKENS_SO_FAR] = so_far
            tokens = tokens or so_far - before
        return tokens or None

    def _rollout(self) -> dict[str, Any]:
        """Return the figures of the rollouts from the logs; empty for a Trainer without."""
        mean_length = self._logs.get(_MEAN_LENGTH)
        if self._samples_per_step is None or mean_length is None:
            return {}
        rollout = {
            "num_samples": self._samples_per_step,
            "num_response_tokens": round(mean_length * self._samples_per_step),
        }
        if _CLIPPED_RATIO in self._logs:
            rollout["num_truncated"] = round(self._logs[_CLIPPED_RATIO] * self._samples_per_step)
        for key, name in _ROLLOUT_LOGS.items():
            if self._logs.get(key) is not None:
                rollout[name] = self._logs[key]
        return rollout

    def _count_updates(self, args: Any) -> None:
        """Read how many updates train on a generation, and how many responses that is."""
        batches_per_generation = getattr(args, "steps_per_generation", None)
        if not batches_per_generation:
            return
        batches_per_generation *= getattr(args, "num_iterations", 1)
        batches_per_update = args.gradient_accumulation_steps
        batches_per_step = math.lcm(batches_per_generation, batches_per_update)
        self._updates_per_step = batches_per_step // batches_per_update
        self._samples_per_step = args.generation_batch_size * batches_per_step // batches_per_generation

    def _check_plan(self, args: Any, *, max_steps: int) -> None:
        plan = self._steps.plan
        needed = self._steps.total_steps * self._updates_per_step
        if max_steps < needed:
            raise StepError(
                f"the Trainer ends after {max_steps} updates, the plan needs {needed} ({plan['warmup_steps']} warm-up "
                f"and {plan['steps']} measured steps of {self._updates_per_step}); raise max_steps or "
                "num_train_epochs, or give it more data"
            )
        layout = plan["layout"]
        if any(layout[axis] > 1 for axis in ("tp", "pp", "cp")):
            return  # ranks share sequences, and the Trainer's arguments don't say how many
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if batch_size != plan["global_batch_size"]:
            raise StepError(
                f"the Trainer trains {batch_size} sequences an update (train_batch_size {args.train_batch_size} x "
                f"gradient_accumulation_steps {args.gradient_accumulation_steps} x world_size {args.world_size}), the "
                f"recipe says global_batch_size={plan['global_batch_size']}; make them equal, tokens and FLOPs are "
                "counted by the recipe's"
            )
