"""LightningSteps: callback that measures Lightning's Trainer."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pytest_nemoperf.integrations.step_writer import StepWriter

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:  # the package's other name
    from pytorch_lightning.callbacks import Callback
else:
    from lightning.pytorch.callbacks import Callback


class LightningSteps(Callback):  # type: ignore[misc]  # lightning is not followed by mypy
    """Callback that records each step of Lightning's Trainer in a perf run; outside of one it does nothing.

    ::

        from pytest_nemoperf.integrations import LightningSteps

        trainer = Trainer(..., callbacks=[LightningSteps()])

    A step is an optimizer update with all its batches (``accumulate_grad_batches``): it ends when ``global_step`` has
    grown. Its time runs from the end of the last one to the end of its last batch, device synchronised at both ends. So
    loading counts, and so does what Lightning does between batches, such as logging every ``log_every_n_steps``; a
    validation between two steps does not.

    Training ends with the plan's last step; Lightning then validates once more, which ``limit_val_batches`` bounds.
    Tokens are the plan's, unless ``steps.record(tokens=...)`` in ``training_step`` says them.

    Raises:
        StepError: In a perf run whose plan can't be read.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps = StepWriter()
        self._global_step = 0
        self._losses: list[Any] = []  # of the step's batches so far, each already divided by their number
        self._num_batches = 0

    def record(self, **figures: Any) -> None:
        """Record figures of the step that Lightning does not know, as StepWriter.record does."""
        self._steps.record(**figures)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin a step, or begin it anew: between epochs Lightning validates and saves."""
        del pl_module
        self._restart(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Begin the step anew after a validation between two steps."""
        del pl_module
        if not trainer.sanity_checking:
            self._restart(trainer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the step if its update is done, and begin the next; end the training if it was the last."""
        del pl_module, batch, batch_idx
        if not self._steps.has_open_step:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None  # of manual optimization it may be None
        if loss is not None:
            self._losses.append(loss)
        self._num_batches += 1
        if trainer.global_step == self._global_step:
            return
        self._steps.stop_clock()
        if self._losses:
            self._steps.record(loss=sum(map(float, self._losses)))
        self._steps.end_step()
        if self._steps.is_done:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # both would go on
        self._begin(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Forget a step that was begun and not trained."""
        del trainer, pl_module
        self._steps.cancel_step()

    def _begin(self, trainer: Any) -> None:
        self._global_step = trainer.global_step
        self._losses = []
        self._num_batches = 0
        self._steps.begin_step()

    def _restart(self, trainer: Any) -> None:
        """Begin the open step anew, unless batches of it are done."""
        if not self._num_batches:
            self._steps.cancel_step()
            self._begin(trainer)
