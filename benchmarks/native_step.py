"""Compare the native single-process step with transformers' LlamaForCausalLM, and both with the GEMM rate.

Same weights, tokens, optimizer, clipping, dtype (fp32) and process; the steps are interleaved, round by round,
with a round of the model's own matrix products, so that all three see the same machine. Before anything is
timed, loss and gradient norm must agree.

Needs transformers: ``pip install 'pytest-nemoperf[bench]'``, then ``python benchmarks/native_step.py``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from llama_config import llama_config
from tables import rates, ratios, spread, timed

from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention
from pytest_nemoperf.flops.count import num_flops_per_token
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.phases import phase_clock
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.native.train.loop import Trainer
from pytest_nemoperf.recipes.recipe import PRETRAIN, Plan, Precision

CPU = torch.device("cpu")
# hidden, heads, kv heads, head_dim, ffn, vocabulary, sequence length, sequences: Llama-like proportions
SHAPES = {256: (8, 2, 32, 896, 2048, 256, 8), 1024: (16, 4, 64, 3584, 8192, 128, 32)}

SETTLING_STEPS = 6  # until the heap has found its size


def make_plan(hidden_size: int) -> Plan:
    """Return a single-process fp32 plan of a width."""
    heads, kv_heads, head_dim, ffn, vocab, seq_len, batch = SHAPES[hidden_size]
    model = ModelConfig(
        name=f"llama-{hidden_size}",
        hidden_size=hidden_size,
        num_layers=4,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        ffn_hidden_size=ffn,
        vocab_size=vocab,
    )
    convention = find_convention(DEFAULT_CONVENTION)
    return Plan(
        case="benchmark",
        workload=PRETRAIN,
        system="cpu",
        device="cpu",
        framework="torch",
        model=model,
        precision=Precision.FP32,
        seq_len=seq_len,
        global_batch_size=batch,
        micro_batch_size=batch,
        grad_accum_steps=1,
        layout=Layout(gpus=1),
        num_nodes=1,
        steps=10,
        warmup_steps=2,
        seed=1234,
        tokens_per_step=batch * seq_len,
        flops_per_token=num_flops_per_token(model, seq_len=seq_len, convention=convention),
        flops_convention=convention.name,
        peak_tflops=None,
        timeout_sec=600.0,
    )


def native_trainer(plan: Plan) -> tuple[Decoder, Trainer]:
    """Return our model and its trainer, as a single rank builds them."""
    (model,) = parallelize(plan, mesh=RankMesh(), device=CPU)
    assert isinstance(model, Decoder)
    data = SyntheticTokens(plan, dp_rank=0, device=CPU)
    return model, Trainer(plan, chunks=[model], mesh=RankMesh(), data=data, clock=phase_clock(CPU))


def reference_model(plan: Plan, *, weights: Decoder) -> Any:
    """Return transformers' model with the same weights."""
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM(llama_config(plan))
    reference.load_state_dict(reference_weights(plan, weights=weights))
    return reference.train()


def reference_weights(plan: Plan, *, weights: Decoder) -> dict[str, torch.Tensor]:
    """Return our weights under transformers' names, fused matrices taken apart."""
    ours = weights.state_dict()
    model = plan.model
    kv_rows = model.num_kv_heads * model.head_dim
    rows = [model.num_heads * model.head_dim, kv_rows, kv_rows]
    theirs = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": ours["head.weight"],
    }
    for layer in range(model.num_layers):
        mine = f"blocks.{layer}."
        its = f"model.layers.{layer}."
        q, k, v = ours[mine + "attention.qkv.weight"].split(rows)
        gate, up = ours[mine + "mlp.gate_up.weight"].chunk(2)
        theirs |= {
            its + "self_attn.q_proj.weight": q,
            its + "self_attn.k_proj.weight": k,
            its + "self_attn.v_proj.weight": v,
            its + "self_attn.o_proj.weight": ours[mine + "attention.out.weight"],
            its + "mlp.gate_proj.weight": gate,
            its + "mlp.up_proj.weight": up,
            its + "mlp.down_proj.weight": ours[mine + "mlp.down.weight"],
            its + "input_layernorm.weight": ours[mine + "attention_norm.weight"],
            its + "post_attention_layernorm.weight": ours[mine + "mlp_norm.weight"],
        }
    return theirs


def reference_stepper(plan: Plan, *, reference: Any) -> Callable[[int], tuple[float, float]]:
    """Return transformers' step: same tokens, optimizer and clipping as ours."""
    data = SyntheticTokens(plan, dp_rank=0, device=CPU)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(number: int) -> tuple[float, float]:
        ((tokens, labels),) = data.micro_batches(number)
        labels = labels[..., 0].contiguous()  # it views them flat
        loss = reference(input_ids=tokens, labels=labels, shift_labels=labels).loss
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item(), grad_norm.item()

    return step


def gemm_round(plan: Plan) -> Callable[[], float]:
    """Return a function that does each of the step's matrix products once and returns their FLOP/s."""
    model = plan.model
    tokens = plan.tokens_per_step
    width = model.hidden_size
    ffn = model.ffn_hidden_size
    fused = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    shapes = [(width, fused), (model.num_heads * model.head_dim, width), (width, 2 * ffn), (ffn, width)]
    products = []
    flops = 0
    for inputs, outputs in [*shapes * model.num_layers, (width, model.vocab_size)]:
        x = torch.randn(tokens, inputs)
        w = torch.randn(outputs, inputs)
        y = torch.randn(tokens, outputs)
        products += [(x, w.t(), y), (y, w, torch.empty_like(x)), (y.t(), x, torch.empty_like(w))]
        flops += 3 * 2 * tokens * inputs * outputs

    def multiply() -> None:
        for a, b, out in products:
            torch.mm(a, b, out=out)

    return lambda: flops / timed(multiply)


def settle(trainer: Trainer, *, reference: Callable[[int], tuple[float, float]]) -> float:
    """Take the first steps of both; return the largest relative difference, and exit if it is not rounding."""
    worst = 0.0
    for number in range(SETTLING_STEPS):
        ours = trainer.step(number)
        loss, grad_norm = reference(number)
        if number < 3:  # later on rounding grows, as it does between any two orders of summation
            worst = max(worst, abs(ours.loss / loss - 1), abs(ours.grad_norm / grad_norm - 1))
    if worst > 1e-4:
        sys.exit(f"loss and gradient norm differ by {worst:.1e}: not the same model, nothing to compare")
    return worst


def compare(hidden_size: int, *, rounds: int) -> None:
    """Print one width's figures: medians over rounds, with smallest and largest."""
    plan = make_plan(hidden_size)
    decoder, trainer = native_trainer(plan)
    reference = reference_stepper(plan, reference=reference_model(plan, weights=decoder))
    gemm = gemm_round(plan)
    worst = settle(trainer, reference=reference)
    gemm()
    repeats = 10
    if hidden_size > 512:
        repeats = 1
    ours: list[float] = []
    theirs: list[float] = []
    products: list[float] = []
    flops = plan.flops_per_token * plan.tokens_per_step
    for number in range(rounds):
        ours.append(median_time(lambda: trainer.step(number), repeats=repeats))  # noqa: B023 (called at once)
        theirs.append(median_time(lambda: reference(number), repeats=repeats))  # noqa: B023 (as above)
        products.append(flops / statistics.median(gemm() for _ in range(repeats)))
    print(f"hidden {hidden_size}: {plan.tokens_per_step} tokens a step, loss and grad norm agree to {worst:.0e}")
    print(f"  native        {spread(ours, scale=1e3, digits=3)} ms")
    print(f"  transformers  {spread(theirs, scale=1e3, digits=3)} ms")
    print(f"  transformers / native  {spread(ratios(theirs, to=ours), digits=3)}")
    print(f"  GEMM rate     {spread(rates(flops, seconds=products), scale=1e-9, digits=3)} GFLOP/s")
    for name, times in (("native", ours), ("transformers", theirs)):
        shares = ratios(products, to=times)
        print(f"  share of the GEMM rate, {name}  {spread(shares, scale=100, digits=3)} %")


def median_time(step: Callable[[], object], *, repeats: int) -> float:
    """Return the median time of a step in seconds."""
    return statistics.median(timed(step) for _ in range(repeats))


def main() -> None:
    """Run the comparison at every width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--hidden", type=int, choices=sorted(SHAPES), action="append")
    arguments = parser.parse_args()
    try:
        import transformers
    except ImportError:
        sys.exit(
            "transformers is not installed, so there is nothing to compare with: pip install 'pytest-nemoperf[bench]'"
        )
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(available_cores())
    tune_host_memory()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads, fp32"
    )
    for hidden_size in arguments.hidden or sorted(SHAPES):
        compare(hidden_size, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
