"""Refit between pairs of layouts: time, GB/s, exactness, and the time of a plain exchange of the same messages.

Every pair keeps its weights; pairs take turns, round by round, and in each turn the refit is followed by gloo's
all_to_all of as many bytes between the same ranks, from and to buffers that are there already: no packing, no casts,
no copies. Weights are compared bit by bit after the last round.

``python benchmarks/refit.py [--rounds N] [--precision bf16|fp32] [--ranks 2|4] [--bucket-mib N]``
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from tables import machine_line, markdown_table, rates, ratios, spread
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.layouts.refit_transfers import refit_transfers
from pytest_nemoperf.layouts.weight_regions import ShardRegion, generation_holders, regions_of_rank, training_holders
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.models.weights import model_weights, num_parameters
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.native.parallel.refit import BUCKET_BYTES, Refit
from pytest_nemoperf.native.seeds import seeded_generator
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

CPU = torch.device("cpu")
SETTLING_ROUNDS = 2
DENSE = ModelConfig(
    name="dense",
    hidden_size=512,
    num_layers=8,
    num_heads=8,
    num_kv_heads=4,
    head_dim=64,
    ffn_hidden_size=1536,
    vocab_size=8192,
)
MIXTURE = replace(DENSE, name="mixture", moe=MoE(num_experts=8, topk=2, ffn_hidden_size=256))
G = GenerationLayout
PAIRS: dict[int, list[tuple[ModelConfig, Layout]]] = {
    2: [
        (DENSE, Layout(gpus=2, dp_replicate=2, generation=G(gpus=2))),
        (DENSE, Layout(gpus=2, dp_shard=2, generation=G(gpus=2, tp=2))),
        (DENSE, Layout(gpus=2, tp=2, generation=G(gpus=2))),
        (DENSE, Layout(gpus=2, pp=2, generation=G(gpus=2, tp=2))),
        (MIXTURE, Layout(gpus=2, dp_shard=2, ep=2, generation=G(gpus=2, tp=2))),
        (DENSE, Layout(gpus=1, generation=G(gpus=1, is_colocated=False))),
    ],
    4: [
        (DENSE, Layout(gpus=4, dp_shard=4, generation=G(gpus=4, tp=4))),
        (DENSE, Layout(gpus=4, dp_shard=2, tp=2, generation=G(gpus=4, tp=2, pp=2))),
        (DENSE, Layout(gpus=4, dp_replicate=2, dp_shard=2, generation=G(gpus=4, tp=2))),
        (DENSE, Layout(gpus=4, tp=2, pp=2, generation=G(gpus=4))),
        (MIXTURE, Layout(gpus=4, dp_shard=4, ep=2, generation=G(gpus=4, tp=2))),
        (DENSE, Layout(gpus=2, dp_shard=2, generation=G(gpus=2, tp=2, is_colocated=False))),
        (DENSE, Layout(gpus=2, pp=2, vp=2, generation=G(gpus=2, is_colocated=False))),
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the command line."""

    rounds: int
    precision: Precision
    bucket_bytes: int


class Pair:
    """One rank's side of a refit between two layouts."""

    def __init__(self, plan: Plan, *, rank: int, bucket_bytes: int) -> None:
        layout = plan.layout
        self.refit_secs: list[float] = []
        self.exchange_secs: list[float] = []
        self.plan = plan
        self.refit = Refit(plan, group=dist.group.WORLD, device=CPU, bucket_bytes=bucket_bytes)
        dtype = torch.bfloat16
        if plan.precision is Precision.FP32:
            dtype = torch.float32
        self.sources = _cut(plan, regions_of_rank(rank, holders=training_holders(plan.model, layout=layout)))
        held = regions_of_rank(rank, holders=generation_holders(plan.model, layout=layout))
        self.targets = {name: torch.full(region.shape, torch.nan, dtype=dtype) for name, region in held.items()}
        self._held = held
        self._sends = [0] * layout.total_gpus
        self._receives = [0] * layout.total_gpus
        for move in refit_transfers(plan.model, layout=layout):
            if move.source == move.target:
                continue
            if move.source == rank:
                self._sends[move.target] += move.numel * dtype.itemsize
            elif move.target == rank:
                self._receives[move.source] += move.numel * dtype.itemsize
        self._sent = torch.zeros(sum(self._sends), dtype=torch.uint8)
        self._received = torch.zeros(sum(self._receives), dtype=torch.uint8)

    def run(self) -> None:
        """Refit."""
        self.refit.run(self.sources, self.targets)

    def exchange(self) -> None:
        """Exchange as many bytes as the refit does, and nothing else."""
        dist.all_to_all_single(self._received, self._sent, self._receives, self._sends)

    def is_exact(self) -> bool:
        """Return whether the received weights are those that were sent, bit by bit."""
        for name, expected in _cut(self.plan, self._held).items():
            received = self.targets[name]
            if not torch.equal(received, expected.to(received.dtype)):
                return False
        return True


def _cut(plan: Plan, held: dict[str, ShardRegion]) -> dict[str, Tensor]:
    parts = {}
    for weight in model_weights(plan.model):
        if weight.name in held:
            generator = seeded_generator(CPU, seed=1, purpose=weight.name)
            part = torch.randn(weight.shape, generator=generator)
            for dim, along in enumerate(held[weight.name].intervals):
                rows = [torch.arange(interval.start, interval.start + interval.length) for interval in along]
                part = part.index_select(dim, torch.cat(rows))
            parts[weight.name] = part
    return parts


def _time(action: Callable[[], None]) -> float:
    """Return the seconds of the slowest rank."""
    dist.barrier()
    start = time.perf_counter()
    action()
    seconds = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
    dist.all_reduce(seconds, op=dist.ReduceOp.MAX)
    return float(seconds)


def _rank_main(rank: int, num_ranks: int, store: str, options: Options) -> None:
    torch.set_num_threads(max(1, available_cores() // num_ranks))
    tune_host_memory()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=num_ranks)
    pairs = []
    for model, layout in PAIRS[num_ranks]:
        plan = _plan(model, layout, options=options)
        pairs.append(Pair(plan, rank=rank, bucket_bytes=options.bucket_bytes))
    for number in range(SETTLING_ROUNDS + options.rounds):
        for pair in pairs:
            refit_sec = _time(pair.run)
            exchange_sec = _time(pair.exchange)
            if number >= SETTLING_ROUNDS:
                pair.refit_secs.append(refit_sec)
                pair.exchange_secs.append(exchange_sec)
    rows = []
    for pair in pairs:
        num_wrong = torch.tensor(int(not pair.is_exact()))
        dist.all_reduce(num_wrong)
        if num_wrong:
            sys.exit(f"{pair.plan.layout.label}: weights on {int(num_wrong)} ranks are not what was trained")
        rows.append(_row(pair))
    if rank == 0:
        head = ["training-generation", "MB", "by message", "ms", "GB/s", "plain ms", "refit / plain"]
        print(markdown_table(head, rows=rows), flush=True)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # like a rank of the engine: the interpreter's teardown races with gloo's threads


def _row(pair: Pair) -> list[str]:
    refit = pair.refit
    cells = [
        f"{pair.plan.model.name} {pair.plan.layout.label}",
        f"{refit.num_bytes / 1e6:.0f}",
        f"{refit.num_message_bytes / 1e6:.0f}",
        spread(pair.refit_secs, scale=1e3, digits=0),
        spread(rates(refit.num_bytes, seconds=pair.refit_secs), scale=1e-9),
    ]
    if not refit.num_message_bytes:
        return [*cells, "-", "-"]
    slowdowns = ratios(pair.refit_secs, to=pair.exchange_secs)
    return [*cells, spread(pair.exchange_secs, scale=1e3, digits=0), spread(slowdowns)]


def _plan(model: ModelConfig, layout: Layout, *, options: Options) -> Plan:
    recipe = Recipe(
        model=model,
        layouts={"cpu": replace(layout, generation=None)},
        seq_len=64,
        global_batch_size=8,
        precision=options.precision,
    )
    # Nothing is generated, so the recipe needs no reinforcement learning.
    return replace(resolve(recipe, system=find_system("cpu")), layout=layout)


def main() -> None:
    """Run the pairs of two ranks, then those of four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="weights train in fp32 always")
    parser.add_argument("--ranks", type=int, choices=list(PAIRS), help="one number of ranks alone")
    parser.add_argument("--bucket-mib", type=int, default=BUCKET_BYTES // 2**20)
    arguments = parser.parse_args()
    options = Options(
        rounds=arguments.rounds,
        precision=Precision(arguments.precision),
        bucket_bytes=arguments.bucket_mib * 2**20,
    )
    for model in (DENSE, MIXTURE):
        print(f"{model.name}: {num_parameters(model) / 1e6:.0f} M weights, {num_parameters(model) * 4 / 1e6:.0f} MB")
    for num_ranks in PAIRS:
        if arguments.ranks not in {None, num_ranks}:
            continue
        print(f"\n{num_ranks} ranks; fp32 to {options.precision}; {options.rounds} rounds; all exact\n", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            spawn(_rank_main, args=(num_ranks, f"{folder}/store", options), nprocs=num_ranks)  # type: ignore[no-untyped-call]  # torch leaves it untyped
    print(f"\n{machine_line()}")


if __name__ == "__main__":
    main()
