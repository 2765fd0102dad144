"""Compare a step of GRPO with TRL's GRPOTrainer: steps/s, and seconds of generation, log-probabilities and training.

Same architecture, number format, prompts, numbers of generated tokens and optimizer, and as many threads. Blocks of
steps alternate: ours are whole runs by framework and launcher, as a perf test starts them; theirs are steps of one
process that waits in between (``trl_peer.py``). Both report the tokens they processed, and these must be equal. In the
same rounds our step's matrix products are done alone: no step of that arithmetic can be faster.

Needs TRL: ``pip install 'pytest-nemoperf[bench]'``, then ``python benchmarks/rl.py [--rounds N] [--steps N]``.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from peers import Peer, started_peer, workload_of
from tables import machine_line, markdown_table, rates, ratios, spread, timed

from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import StepRecord
from pytest_nemoperf.runs.execute import run_once

GOAL = 5.0
"""Ours over theirs, steps per second."""
WARMUP_STEPS = 3
PARTS = ("generation", "log-probabilities", "training", "rest")
# Ours measure the policy's log-probabilities apart, before training; theirs only in training, where on-policy needs
# no more. Weights for generation need no copy there.
PART_OF_PHASE = {
    "generation": "generation",
    "refit": "generation",
    "policy_logprobs": "log-probabilities",
    "reference_logprobs": "log-probabilities",
    "training": "training",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Steps of one side, one after the other.

    Attributes:
        seconds: Median time of ``step`` and of each of its parts.
        tokens: Prompt and response tokens of each step.
    """

    seconds: Mapping[str, float]
    tokens: tuple[int, ...]


def make_plan(*, steps: int, ranks: int) -> Plan:
    """Return the workload: 8 prompts of 32 tokens, 4 responses of 64 each, one update on all of them."""
    model = ModelConfig(
        name="llama-128",
        hidden_size=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        ffn_hidden_size=384,
        vocab_size=1024,
        rope_theta=10_000.0,
        norm_eps=1e-6,
    )
    rl = RL(num_prompts_per_step=8, num_generations_per_prompt=4, prompt_len=32, max_response_len=64)
    recipe = Recipe(
        model=model,
        layouts={"cpu": Layout(gpus=ranks, dp_replicate=ranks)},
        seq_len=rl.prompt_len + rl.max_response_len,
        global_batch_size=rl.num_samples,
        micro_batch_size=rl.num_samples // ranks,
        precision=Precision.FP32,
        rl=rl,
        steps=steps,
        warmup_steps=WARMUP_STEPS,
    )
    return resolve(recipe, system=find_system("cpu"))


def run_theirs(plan: Plan, *, peer: Peer) -> Block:
    """Return a block of as many steps as one of our runs has, warm-up dropped too."""
    steps = []
    tokens = []
    for step in peer.run(plan.total_steps)[plan.warmup_steps :]:
        tokens.append(step["num_tokens"])
        steps.append(
            {
                "step": step["step"],
                "generation": step["generation"],
                "log-probabilities": step["logprobs"],
                "training": step["step"] - step["rollout"],
                "rest": step["rollout"] - step["generation"] - step["logprobs"],
            }
        )
    return make_block(steps, tokens=tokens)


def run_ours(plan: Plan, *, launcher: LocalLauncher, folder: Path) -> Block:
    """Return a block: the measured steps of one run."""
    output = run_once(
        plan, framework=TorchFramework(), launcher=launcher, run_dir=folder, on_progress=lambda _progress: None
    )
    records = output.records[plan.warmup_steps :]
    return make_block([own_parts(record) for record in records], tokens=[record.tokens for record in records])


def own_parts(record: StepRecord) -> dict[str, float]:
    """Return the seconds of a step and of its parts."""
    parts = dict.fromkeys(PARTS, 0.0)
    for phase, seconds in record.phases.items():
        parts[PART_OF_PHASE.get(phase, "rest")] += seconds
    return {"step": record.step_time_sec, **parts}


def make_block(steps: Sequence[Mapping[str, float]], *, tokens: Sequence[int]) -> Block:
    """Return the medians over steps."""
    medians = {name: statistics.median(step[name] for step in steps) for name in ("step", *PARTS)}
    return Block(seconds=medians, tokens=tuple(tokens))


def product_block(plan: Plan) -> Block:
    """Time our step's matrix products, attention's apart; return them as a block of one step."""
    rl = plan.rl
    assert rl is not None
    shapes = [weight.shape for weight in model_weights(plan.model) if len(weight.shape) == 2]
    shapes.remove((plan.model.vocab_size, plan.model.hidden_size))  # the embedding is looked up

    def operands(tokens: int) -> list[tuple[torch.Tensor, ...]]:
        return [(torch.randn(tokens, n), torch.randn(m, n), torch.randn(tokens, m)) for m, n in shapes]

    def forward(products: list[tuple[torch.Tensor, ...]]) -> None:
        for x, weight, _ in products:
            torch.mm(x, weight.t())

    def backward(products: list[tuple[torch.Tensor, ...]]) -> None:
        for x, weight, y in products:
            torch.mm(y, weight)
            torch.mm(y.t(), x)

    step = operands(plan.tokens_per_step)
    token = operands(rl.num_samples)
    prompts = operands(sum(map(rl.prompt_length, range(rl.num_prompts_per_step))))
    decoding_sec = rl.max_response_len * timed(lambda: forward(token), repeats=rl.max_response_len)
    parts = {
        "generation": timed(lambda: forward(prompts)) + decoding_sec,
        "log-probabilities": 2 * timed(lambda: forward(step), repeats=2),
        "training": timed(lambda: forward(step)) + timed(lambda: backward(step)),
        "rest": 0.0,
    }
    return make_block([{"step": sum(parts.values()), **parts}], tokens=[plan.tokens_per_step])


def compare(plan: Plan, *, rounds: int, folder: Path) -> tuple[list[Block], list[Block], list[Block]]:
    """Return blocks of each side, and of the matrix products alone, taken in turns.

    Raises:
        RuntimeError: If the two processed different numbers of tokens.
    """
    launcher = LocalLauncher()
    ours = []
    theirs = []
    products = []
    product_block(plan)
    try:
        with started_peer("trl_peer.py", workload=workload_of(plan), folder=folder) as peer:
            for _ in range(rounds):
                ours.append(run_ours(plan, launcher=launcher, folder=folder / "run"))
                theirs.append(run_theirs(plan, peer=peer))
                products.append(product_block(plan))
    finally:
        launcher.close()
    counts: set[int] = set()
    for block in (*ours, *theirs):
        counts.update(block.tokens)
    if counts != {plan.tokens_per_step}:
        raise RuntimeError(f"steps had {sorted(counts)} tokens, the plan has {plan.tokens_per_step}: not comparable")
    return ours, theirs, products


def show(plan: Plan, *, ours: Sequence[Block], theirs: Sequence[Block], products: Sequence[Block]) -> None:
    """Print the table and the ratios."""
    rl = plan.rl
    assert rl is not None
    print(
        f"{plan.case}: {rl.num_samples} responses of {rl.max_response_len} tokens, {plan.tokens_per_step} tokens a "
        f"step on both sides; trl {metadata.version('trl')}, transformers {metadata.version('transformers')}; "
        f"{len(ours)} rounds of {plan.steps} steps, in turns\n"
    )
    rows = []
    for part in ("step", *PARTS):
        our_secs = seconds_of(part, blocks=ours)
        their_secs = seconds_of(part, blocks=theirs)
        rows.append(
            [
                part,
                spread(our_secs, scale=1e3, digits=1),
                spread(their_secs, scale=1e3, digits=1),
                spread(ratios(their_secs, to=our_secs)),
                spread(seconds_of(part, blocks=products), scale=1e3, digits=1),
            ]
        )
    head = ["ms: median (min to max)", "ours", "TRL", "TRL / ours, same round", "matrix products alone"]
    print(markdown_table(head, rows=rows))
    our_secs = seconds_of("step", blocks=ours)
    their_secs = seconds_of("step", blocks=theirs)
    speedups = spread(ratios(their_secs, to=our_secs))
    bounds = spread(ratios(their_secs, to=seconds_of("step", blocks=products)))
    print(
        f"\nsteps/s: ours {spread(rates(1, seconds=our_secs))}, TRL {spread(rates(1, seconds=their_secs))}; "
        f"ours / TRL {speedups}, goal {GOAL:g}"
    )
    print(f"a step of nothing but our matrix products would be {bounds} times TRL's rate\n")


def seconds_of(part: str, *, blocks: Sequence[Block]) -> list[float]:
    """Return the time of a part of the step in each block."""
    return [block.seconds[part] for block in blocks]


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="measured steps of a block")
    parser.add_argument("--ranks", type=int, default=1, help="of ours; they share the cores")
    arguments = parser.parse_args()
    if importlib.util.find_spec("trl") is None:
        sys.exit("trl is not installed, so there is nothing to compare with: pip install 'pytest-nemoperf[bench]'")
    torch.set_num_threads(available_cores())
    tune_host_memory()
    plan = make_plan(steps=arguments.steps, ranks=arguments.ranks)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, products = compare(plan, rounds=arguments.rounds, folder=Path(folder))
    show(plan, ours=ours, theirs=theirs, products=products)
    print(machine_line())


if __name__ == "__main__":
    main()
