"""Ranks that refit and compare their weights with shards of a whole model. Entrypoints of the warm server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from pytest_nemoperf.json_codec import from_json
from pytest_nemoperf.layouts import refit_transfers
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.layouts.pipeline_stages import stage_layers
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel import initialize, refit
from pytest_nemoperf.native.parallel.mesh import RankMesh, build_mesh
from pytest_nemoperf.native.parallel.parallelize import generation_dtype, parallelize
from pytest_nemoperf.native.parallel.refit import Refit
from pytest_nemoperf.native.parallel.sharding import AxisShard
from pytest_nemoperf.native.seeds import seeded_generator
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE

BUCKET_FILE = "bucket-bytes.txt"  # a variable would need a server of its own for each value
CPU = torch.device("cpu")


def compare() -> None:
    """Refit twice, the second time after the weights changed, and report the weights that differ."""

    def check(probe: Probe) -> list[str]:
        wrong = []
        for factor in (1.0, 2.0):
            probe.train(factor)
            probe.refit.run(probe.sources, probe.targets)
            wrong += probe.differences()
        return wrong

    _report(check)


def compare_asynchronously() -> None:
    """Like ``compare``, but training ranks go on and change their weights before generating ranks receive them."""

    def check(probe: Probe) -> list[str]:
        wrong = []
        pending = None
        for factor in (1.0, 2.0):
            if probe.is_training:
                if pending is not None:
                    pending.wait()
                probe.train(factor)
                pending = probe.refit.start(probe.sources)
                if probe.trainers is not None:
                    dist.barrier(probe.trainers)
                probe.train(4.0)
            # Those that generate get here first, and wait: had a start waited for them, this would be a deadlock.
            dist.barrier()
            if probe.is_training:
                probe.train(0.25)
            else:
                probe.train(factor)
                probe.refit.receive(probe.targets)
                wrong += probe.differences()
        if pending is not None:
            pending.wait()
            pending.wait()
        return wrong

    _report(check)


def with_a_shifted_interval() -> None:
    """A refit that takes the second of the intervals fused into one matrix from one row further up."""
    original = refit_transfers._common

    def shifted(*along):  # type: ignore[no-untyped-def]  # passes on what it is given
        found = original(*along)
        if len(found) > 1:
            own, other, length = found[1]
            found[1] = (own - 1, other, length)
        return found

    with mock.patch.object(refit_transfers, "_common", shifted):
        compare()


def without_the_last_bucket() -> None:
    """A refit that forgets the last of its exchanges."""
    original = refit_transfers.split_into_buckets

    with mock.patch.object(refit, "split_into_buckets", lambda *args, **options: original(*args, **options)[:-1]):
        compare()


def with_senders_in_the_wrong_order() -> None:
    """A refit with received transfers in reverse order of the senders."""
    original = refit._bucket_of

    def reversed_receives(*args, **options):  # type: ignore[no-untyped-def]  # as above
        bucket = original(*args, **options)
        return replace(bucket, receives=bucket.receives[::-1])

    with mock.patch.object(refit, "_bucket_of", reversed_receives):
        compare()


class Probe:
    """One rank: its training weights, its generation weights, and the expected values of these."""

    def __init__(self, plan: Plan, *, rank: int, bucket_bytes: int) -> None:
        layout = plan.layout
        generation = layout.generation or GenerationLayout(gpus=layout.gpus)
        mesh = build_mesh(layout, model=plan.model, device_type="cpu")
        self.trainers = mesh.world
        self.is_training = rank < layout.gpus
        group = dist.new_group()  # its own: transfers in flight must not block other collectives
        self.refit = Refit(plan, group=group, device=CPU, bucket_bytes=bucket_bytes)
        chunks = parallelize(plan, mesh=mesh, device=CPU) if self.is_training else ()
        self.sources: dict[str, Tensor] = {
            name.removeprefix("module."): parameter for chunk in chunks for name, parameter in chunk.named_parameters()
        }
        place = rank if generation.is_colocated else rank - layout.gpus
        self.expected = _expected(plan, generation=generation, place=place) if place >= 0 else {}
        dtype = generation_dtype(plan)
        self.targets = {name: torch.full_like(part, torch.nan, dtype=dtype) for name, part in self.expected.items()}
        self._factor = 1.0

    def train(self, factor: float) -> None:
        """Scale training weights and expected values; a power of two makes no rounding errors."""
        with torch.no_grad():
            for weight in self.sources.values():
                weight.mul_(factor)
        self._factor *= factor

    def differences(self) -> list[str]:
        """Return the names of weights that differ from the expected ones, padding included."""
        wrong = []
        for name, part in self.expected.items():
            changed = torch.where(part.isnan(), 0.0, part * self._factor)
            if not torch.equal(self.targets[name], changed.to(self.targets[name].dtype)):
                wrong.append(name)
        return wrong


def _expected(plan: Plan, *, generation: GenerationLayout, place: int) -> dict[str, Tensor]:
    """Return a whole model's weights, in fp32, cut for a rank that generates; NaN stands for padding."""
    tp, pp = generation.tp, generation.pp
    stage = place // tp % pp
    alone = replace(plan, layout=Layout(gpus=1))
    (whole,) = parallelize(alone, mesh=RankMesh(), device=CPU)
    (layers,) = stage_layers(plan.model, pp=pp, vp=1)[stage]
    config = replace(plan.model, mtp_num_layers=0)
    with torch.device("meta"):
        part = Decoder(
            config,
            seq_len=plan.seq_len,
            dtype=torch.float32,
            layers=layers,
            is_first=stage == 0,
            is_last=stage == pp - 1,
        )
    weights = {weight.name: weight for weight in model_weights(plan.model)}
    parameters = dict(whole.named_parameters())
    expected = {}
    for name, _ in part.named_parameters():
        tensor, split = parameters[name].detach(), weights[name].split
        if split is not None:
            if split.is_padded:
                missing = -tensor.shape[0] % tp
                tensor = torch.cat([tensor, tensor.new_full((missing, *tensor.shape[1:]), torch.nan)])
            tensor = AxisShard(split=split, degree=tp, rank=place % tp).take(tensor)
        expected[name] = tensor
    return expected


def _report(check: Callable[[Probe], list[str]]) -> None:
    run_dir, rank = Path(os.environ["NEMOPERF_RUN_DIR"]), int(os.environ["RANK"])
    plan = from_json(Plan, (run_dir / PLAN_FILE).read_bytes(), subject="plan")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with mock.patch.object(initialize, "draw_whole", _drawn):
        probe = Probe(plan, rank=rank, bucket_bytes=int((run_dir / BUCKET_FILE).read_text()))
    wrong = check(probe)
    report = {
        "wrong": wrong,
        "weights": len(probe.expected),
        "num_bytes": probe.refit.num_bytes,
        "got_bytes": sum(tensor.nbytes for tensor in probe.targets.values()),
    }
    (run_dir / f"refit-rank{rank}.json").write_text(json.dumps(report))
    dist.barrier()
    dist.destroy_process_group()


def _drawn(name: str, *, shape: tuple[int, ...], num_layers: int, seed: int, device: torch.device) -> Tensor:
    """Draw a whole weight, also of norms and biases: ones and zeros would equal those of any other."""
    del num_layers
    generator = seeded_generator(device, seed=seed, purpose=f"weight {name}")
    return torch.randn(shape, generator=generator, device=device)
