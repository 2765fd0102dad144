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
import time
from collections.abc import Callable
from typing import Any

import torch

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.conventions import DEFAULT_CONVENTION, find_convention
from pytest_nemoperf.flops import num_flops_per_token
from pytest_nemoperf.native.data import SyntheticTokens
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.parallelize import parallelize
from pytest_nemoperf.native.phases import phase_clock
from pytest_nemoperf.native.train import Trainer
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.recipe import PRETRAIN, Plan, Precision

CPU = torch.device("cpu")
# hidden, heads, kv heads, head_dim, ffn, vocabulary, sequence length, sequences: Llama-like proportions
SHAPES = {256: (8, 2, 32, 896, 2048, 256, 8), 1024: (16, 4, 64, 3584, 8192, 128, 32)}

SETTLING_STEPS = 6  # until the heap has found its size


def make_plan(hidden_size: int) -> Plan:
    """Return a single-process fp32 plan of that width."""
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
    from transformers import LlamaConfig, LlamaForCausalLM

    model = plan.model
    config = LlamaConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=plan.seq_len,
        rms_norm_eps=model.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=model.tied_embeddings,
        use_cache=False,
        attn_implementation="sdpa",
        dtype="float32",
    )
    reference = LlamaForCausalLM(config)
    reference.load_state_dict(reference_weights(plan, weights=weights))
    return reference.train()


def reference_weights(plan: Plan, *, weights: Decoder) -> dict[str, torch.Tensor]:
    """Return our weights under transformers' names, fused matrices taken apart."""
    ours, model = weights.state_dict(), plan.model
    rows = [model.num_heads * model.head_dim, *[model.num_kv_heads * model.head_dim] * 2]
    theirs = {
        "model.embed_tokens.weight": ours["embedding.weight"],
        "model.norm.weight": ours["norm.weight"],
        "lm_head.weight": ours["head.weight"],
    }
    for layer in range(model.num_layers):
        mine, its = f"blocks.{layer}.", f"model.layers.{layer}."
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
    model, tokens = plan.model, plan.tokens_per_step
    width, ffn = model.hidden_size, model.ffn_hidden_size
    fused = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    shapes = [(width, fused), (model.num_heads * model.head_dim, width), (width, 2 * ffn), (ffn, width)]
    products = []
    for inputs, outputs in [*shapes * model.num_layers, (width, model.vocab_size)]:
        x, w, y = torch.randn(tokens, inputs), torch.randn(outputs, inputs), torch.randn(tokens, outputs)
        products += [(x, w.t(), y), (y, w, torch.empty_like(x)), (y.t(), x, torch.empty_like(w))]
    flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in products)

    def run() -> float:
        start = time.perf_counter()
        for a, b, out in products:
            torch.mm(a, b, out=out)
        return flops / (time.perf_counter() - start)

    return run


def check_equal(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> float:
    """Return the largest relative difference of loss and gradient norm; exit if it is not rounding."""
    worst = max(
        abs(a - b) / abs(b) for mine, its in zip(ours, theirs, strict=True) for a, b in zip(mine, its, strict=True)
    )
    if worst > 1e-4:
        sys.exit(f"loss and gradient norm differ by {worst:.1e}: not the same model, nothing to compare")
    return worst


def compare(hidden_size: int, *, rounds: int) -> None:
    """Print one width's figures: medians over rounds, with smallest and largest."""
    plan = make_plan(hidden_size)
    decoder, trainer = native_trainer(plan)
    reference = reference_stepper(plan, reference=reference_model(plan, weights=decoder))
    gemm = gemm_round(plan)
    warm = [(trainer.step(number), reference(number)) for number in range(SETTLING_STEPS)]
    pairs = warm[:3]  # later on rounding grows, as it does between any two orders of summation
    worst = check_equal([(step.loss, step.grad_norm) for step, _ in pairs], [values for _, values in pairs])
    gemm()
    ours, theirs, rates = [], [], []
    repeats = 1 if hidden_size > 512 else 10
    for number in range(rounds):
        ours.append(timed(lambda: trainer.step(number), repeats=repeats))  # noqa: B023 (called at once)
        theirs.append(timed(lambda: reference(number), repeats=repeats))  # noqa: B023 (as above)
        rates.append(statistics.median(gemm() for _ in range(1 if hidden_size > 512 else 5)))
    flops = plan.flops_per_token * plan.tokens_per_step
    print(f"hidden {hidden_size}: {plan.tokens_per_step} tokens a step, loss and grad norm agree to {worst:.0e}")
    print(f"  native        {spread([t * 1e3 for t in ours])} ms")
    print(f"  transformers  {spread([t * 1e3 for t in theirs])} ms")
    print(f"  transformers / native  {spread([b / a for a, b in zip(ours, theirs, strict=True)])}")
    print(f"  GEMM rate     {spread([rate / 1e9 for rate in rates])} GFLOP/s")
    for name, times in (("native", ours), ("transformers", theirs)):
        shares = [100 * flops / t / rate for t, rate in zip(times, rates, strict=True)]
        print(f"  share of the GEMM rate, {name}  {spread(shares)} %")


def timed(step: Callable[[], object], *, repeats: int) -> float:
    """Return the median time of a step in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def spread(values: list[float]) -> str:
    """Return median, smallest and largest for people."""
    return f"{statistics.median(values):9.3f}  ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Run the comparison at every width."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
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
