"""Time to save and load a checkpoint of all ranks' weights and optimizer states, by torch.distributed.checkpoint."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import CheckpointException  # type: ignore[attr-defined]  # documented, not in __all__
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save
from torch.distributed.tensor import DTensor

from pytest_nemoperf.errors import CheckpointError
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.parallel.mesh import group_timeout
from pytest_nemoperf.native.parallel.passes import whole_model
from pytest_nemoperf.native.train.optimizer_step import Trained
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.launch_times import CheckpointTimes
from pytest_nemoperf.records.metrics import CHECKPOINT_ASYNC_SAVE_SEC, CHECKPOINT_LOAD_SEC, CHECKPOINT_SAVE_SEC

_OPTIONS: Final = StateDictOptions(flatten_optimizer_state_dict=True)  # keys with the name of the weight in them
_STRIDES: Final = (1, 2, 3, 7)
"""Steps between the summed elements of a digest: elements that change places change one of the sums."""


def time_checkpoint(plan: Plan, parts: Sequence[Trained], *, device: torch.device) -> CheckpointTimes | None:
    """Save and load a checkpoint in the plan's folder as often as its extra metrics need, and return the times.

    Every rank of the run must call it after its last step. The times are the slowest rank's, from a barrier until the
    rank's files are on the disk or its weights on the device. Whatever is loaded is compared with what was saved. The
    files are removed.

    Args:
        plan: Plan that asks for checkpoint metrics.
        parts: Models that this rank trains, with their optimizers; none of a rank that only generates.
        device: Device of this rank.

    Returns:
        The times on rank 0, else None.

    Raises:
        CheckpointError: If it can't be saved or loaded, or a loaded tensor is not what was saved.
    """
    # Messages about files need no GPU, and a save in the background must not share a group with anything else.
    group = dist.new_group(list(range(plan.layout.gpus)), timeout=group_timeout(plan), backend="gloo")
    asked = plan.extra_metrics
    has_load = CHECKPOINT_LOAD_SEC.name in asked
    times = {"save_sec": 0.0, "load_sec": 0.0, "async_wait_sec": 0.0, "async_total_sec": 0.0}
    num_bytes = 0
    if parts:
        checkpoint = _Checkpoint(parts, folder=Path(plan.checkpoint_dir) / "checkpoint", group=group, device=device)
        with _told_as_error(plan):
            if has_load or CHECKPOINT_SAVE_SEC.name in asked:
                times["save_sec"] = checkpoint.save()
                num_bytes = checkpoint.num_bytes()
                if has_load:
                    times["load_sec"] = checkpoint.load()
                checkpoint.remove()
            if CHECKPOINT_ASYNC_SAVE_SEC.name in asked:
                times["async_wait_sec"], times["async_total_sec"] = checkpoint.save_in_background()
                num_bytes = checkpoint.num_bytes()
                checkpoint.remove()
    slowest = torch.tensor(list(times.values()), dtype=torch.float64, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    if dist.get_rank() != 0:
        return None
    known = {}
    for name, seconds in zip(times, slowest.tolist(), strict=True):
        known[name] = seconds or None
    return CheckpointTimes(num_bytes=num_bytes, **known)


@contextmanager
def _told_as_error(plan: Plan) -> Iterator[None]:
    """Context that makes torch's exception of a checkpoint an error: it is no Exception, which a rank would report."""
    try:
        yield
    except CheckpointException as exception:
        rank, (cause, _) = min(exception.failures.items(), key=lambda failure: failure[0])
        raise CheckpointError(
            f"{plan.case}: its checkpoint could not be saved to {plan.checkpoint_dir} or loaded from it: "
            f"rank {rank}: {type(cause).__name__}: {cause}"
        ) from exception


class _Checkpoint:
    """One checkpoint of the ranks that train, in a folder that all of them write to.

    Args:
        parts: Models that this rank trains, with their optimizers.
        folder: Folder, made by the save.
        group: Ranks that train, for messages of the CPU.
        device: Device of this rank.
    """

    def __init__(self, parts: Sequence[Trained], *, folder: Path, group: ProcessGroup, device: torch.device) -> None:
        self._states = [_State(part, name=f"model{number}") for number, part in enumerate(parts)]
        self._folder = folder
        self._group = group
        self._device = device

    def save(self) -> float:
        """Save, and return this rank's seconds."""
        return self._timed(lambda: save(self._get(), checkpoint_id=self._folder, process_group=self._group))

    def save_in_background(self) -> tuple[float, float]:
        """Save while training could go on; return this rank's seconds of waiting, and until the save was done."""
        saves: list[Future[Any]] = []

        def start() -> None:
            future = async_save(self._get(), checkpoint_id=self._folder, process_group=self._group)
            assert isinstance(future, Future)  # noqa: S101 (a stager of one's own makes it something else)
            saves.append(future)

        started = time.perf_counter()
        wait_sec = self._timed(start)
        saves[0].result()
        return wait_sec, time.perf_counter() - started

    def load(self) -> float:
        """Load the saved state over zeros, check it, and return this rank's seconds."""
        saved = self._get()
        before = {key: _digest(value) for key, value in saved.items()}
        for value in saved.values():
            if isinstance(value, Tensor):
                _local(value).zero_()
        self._forget_files()
        seconds = self._timed(self._load)
        for key, value in self._get().items():
            if _digest(value) != before[key]:
                raise CheckpointError(
                    f"{key} is not what was saved in {self._folder} a moment before: its digest was {before[key]}, and "
                    f"is {_digest(value)}"
                )
        return seconds

    def num_bytes(self) -> int:
        """Return the size of the files, bytes."""
        return sum(path.stat().st_size for path in self._files())

    def remove(self) -> None:
        """Remove the files, once no rank needs them."""
        dist.barrier(group=self._group)
        if dist.get_rank() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        dist.barrier(group=self._group)

    def _get(self) -> dict[str, Any]:
        """Return weights and optimizer states of all parts by keys that differ wherever ranks hold other numbers."""
        states: dict[str, Any] = {}
        for state in self._states:
            states |= state.get()
        return states

    def _load(self) -> None:
        loaded = self._get()
        load(loaded, checkpoint_id=self._folder, process_group=self._group)
        for state in self._states:
            state.set(loaded)

    def _timed(self, call: Callable[[], object]) -> float:
        """Return the seconds of a call that all ranks enter together, with the device's work in it."""
        self._synchronize()
        dist.barrier(group=self._group)
        started = time.perf_counter()
        call()
        self._synchronize()
        return time.perf_counter() - started

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _files(self) -> list[Path]:
        return [path for path in self._folder.rglob("*") if path.is_file()]

    def _forget_files(self) -> None:
        """Have the kernel forget the files' pages, which are on the disk, so that a load reads the disk."""
        if dist.get_rank() == 0:
            for path in self._files():
                descriptor = os.open(path, os.O_RDONLY)
                try:
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(descriptor)
        dist.barrier(group=self._group)


class _State:
    """State dict of a rank's weights and of its optimizer.

    A tensor without FSDP is the same for torch.distributed.checkpoint wherever its key is; so a key has the place of
    the rank on the axes that cut the weight. Ranks with copies of it share a key, and one of them saves it.

    Args:
        part: Model and optimizer.
        name: First part of every key.
    """

    def __init__(self, part: Trained, *, name: str) -> None:
        chunks = list(map(whole_model, part.chunks))
        self._module = nn.ModuleList(chunks)
        self._optimizer = part.optimizer
        mesh = part.mesh
        stage = f"{name}.pp{_rank_of(mesh.pp)}"
        self._dense = f"{stage}.tp{_rank_of(mesh.tp)}"
        self._expert = f"{stage}.ep{_rank_of(mesh.ep)}.etp{_rank_of(mesh.etp)}"
        experts = {weight.name for weight in model_weights(part.model) if weight.is_expert}
        self._experts: list[str] = []
        for number, chunk in enumerate(chunks):
            for weight, _ in chunk.named_parameters():
                if weight in experts:
                    self._experts.append(f"{number}.{weight}")

    def get(self) -> dict[str, Any]:
        """Return the state by its keys; tensors are the model's and the optimizer's own."""
        state: dict[str, Any] = {
            **get_model_state_dict(self._module, options=_OPTIONS),
            **get_optimizer_state_dict(self._module, self._optimizer, options=_OPTIONS),
        }
        return {self._key(name): value for name, value in state.items()}

    def set(self, loaded: Mapping[str, Any]) -> None:
        """Set the state from the keys of several parts."""
        weights = {name: loaded[self._key(name)] for name in get_model_state_dict(self._module, options=_OPTIONS)}
        set_model_state_dict(self._module, weights, options=_OPTIONS)
        states: dict[str, Any] = {}
        for name in get_optimizer_state_dict(self._module, self._optimizer, options=_OPTIONS):
            states[name] = loaded[self._key(name)]
        set_optimizer_state_dict(self._module, self._optimizer, states, options=_OPTIONS)

    def _key(self, name: str) -> str:
        is_expert = any(f".{weight}." in f".{name}." for weight in self._experts)
        return f"{self._expert if is_expert else self._dense}.{name}"


def _rank_of(group: ProcessGroup | None) -> int:
    return 0 if group is None else group.rank()


def _local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor, sharing its memory and without its gradient."""
    if isinstance(tensor, DTensor):
        tensor = tensor.to_local()
    return tensor.detach()


def _digest(value: object) -> tuple[int, ...] | str:
    """Return exact sums over the bits of a tensor, every stride apart; of anything else its text."""
    if not isinstance(value, Tensor):
        return repr(value)
    local = _local(value).contiguous().flatten()
    if not local.numel():
        return ()
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[local.element_size()]
    bits = local.view(whole)
    return tuple(int(bits[::stride].sum(dtype=torch.int64)) for stride in _STRIDES)
