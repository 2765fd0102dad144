"""Compare one grouped product for all experts with a loop over them: tokens/s of a mixture's training step.

The scaled-down twin of a mixture of experts trains twice in one process with the same weights and tokens; the two
take turns, step by step, so that both see the same machine. Before anything is timed, loss and gradient norm must
agree.

``python benchmarks/moe.py [--model NAME] [--balanced]``
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from tables import machine_line, markdown_table, rates, ratios, spread

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.native.model.moe import Experts, Product, grouped_product, looped_product
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.phases import phase_clock
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

CPU = torch.device("cpu")
SETTLING_STEPS = 6  # until the heap has found its size
PRODUCTS: dict[str, Product] = {"grouped": grouped_product, "loop": looped_product}


def make_trainer(plan: Plan, *, product: Product) -> Trainer:
    """Return the trainer of a single rank; its experts compute by the given product."""
    chunks = parallelize(plan, mesh=RankMesh(), device=CPU)
    for chunk in chunks:
        for module in chunk.modules():
            if isinstance(module, Experts):
                module.product = product
    data = SyntheticTokens(plan, dp_rank=0, device=CPU)
    return Trainer(plan, chunks=chunks, mesh=RankMesh(), data=data, clock=phase_clock(CPU))


def settle(trainers: dict[str, Trainer]) -> float:
    """Take the first steps; return the largest difference of loss and gradient norm, and exit if it is not rounding."""
    worst = 0.0
    for number in range(SETTLING_STEPS):
        grouped = trainers["grouped"].step(number)
        loop = trainers["loop"].step(number)
        worst = max(worst, abs(grouped.loss / loop.loss - 1), abs(grouped.grad_norm / loop.grad_norm - 1))
    if worst > 1e-4:
        sys.exit(f"loss and gradient norm differ by {worst:.1e}: not the same computation, nothing to compare")
    return worst


def compare(plan: Plan, *, rounds: int) -> None:
    """Print tokens/s of both, and their ratio step by step."""
    trainers = {name: make_trainer(plan, product=product) for name, product in PRODUCTS.items()}
    worst = settle(trainers)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(SETTLING_STEPS, SETTLING_STEPS + rounds):
        # The second one finds the tokens drawn and the caches full of the other's weights: so the order alternates.
        for name in sorted(trainers, reverse=number % 2 == 0):
            start = time.perf_counter()
            trainers[name].step(number)
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        tokens_per_sec = rates(plan.tokens_per_step, seconds=times)
        rows.append([name, spread(times, scale=1e3), spread(tokens_per_sec, digits=0)])
    moe = plan.model.moe
    assert moe is not None
    print(
        f"{plan.model.name}: {moe.num_experts} experts of {moe.ffn_hidden_size}, {moe.topk} a token, "
        f"{plan.tokens_per_step} tokens a step, fp32; loss and gradient norm agree to {worst:.0e}\n"
    )
    print(markdown_table(["experts", "step, ms", "tokens/s"], rows=rows))
    speedups = ratios(seconds["loop"], to=seconds["grouped"])
    print(f"\ngrouped / loop, tokens/s of the same round: {spread(speedups)}\n")


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--model", default="qwen3-30b-a3b-twin", help="catalog name; -twin scales it down")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--balanced", action="store_true", help="tokens go round the experts")
    arguments = parser.parse_args()
    if find_model(arguments.model).moe is None:
        sys.exit(f"{arguments.model} has no experts; choose a mixture, e.g. qwen3-30b-a3b-twin")
    torch.set_num_threads(available_cores())
    tune_host_memory()
    recipe = Recipe(
        model=arguments.model,
        layouts={"cpu": Layout(gpus=1)},
        seq_len=arguments.seq_len,
        global_batch_size=arguments.sequences,
        micro_batch_size=arguments.sequences,
        precision=Precision.FP32,
        is_router_balanced=arguments.balanced,
    )
    compare(resolve(recipe, system=find_system("cpu")), rounds=arguments.rounds)
    print(machine_line())


if __name__ == "__main__":
    main()
