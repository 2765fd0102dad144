"""Compare native generation with transformers' ``generate`` and vLLM, and with the machine's limits.

Same weights, prompts, lengths, dtype (fp32) and threads, all sampled. Our engine and transformers take turns in one
process, round by round, with a round of the model's own matrix products and of copies through memory, so that all see
the same machine. Before anything is timed, our log-probabilities must be those of transformers' forward pass.

Needs transformers: ``pip install 'pytest-nemoperf[bench]'``, then ``python benchmarks/generation.py``.
With ``--vllm-python PATH``, an interpreter that has vllm (``make .venv-vllm/.ready`` makes one), vLLM takes part in the
rounds too, in a process of its own (``vllm_peer.py``).
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from native_step import reference_weights
from peers import Peer, started_peer, workload_of
from tables import machine_line, markdown_table, rates, ratios, spread, timed

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import GenerationMesh, RankMesh
from pytest_nemoperf.native.parallel.parallelize import parallelize
from pytest_nemoperf.native.rl.generate.generation import NativeGenerator
from pytest_nemoperf.native.rl.generate.rollouts import Request, Response
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL, STOP_TOKEN
from pytest_nemoperf.recipes.systems import find_system

CPU = torch.device("cpu")
MODEL = ModelConfig(
    name="llama-128",
    hidden_size=128,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    ffn_hidden_size=512,
    vocab_size=1024,
)
PROMPTS, GROUP, PROMPT_LEN = 8, 4, 16
GROWTH = (64, 256, 1024)  # generated tokens whose cost is compared
WARM_ROUNDS = 2
TOLERANCE = 1e-4  # between two implementations
LIMITS: Mapping[str, str] = {
    "products": "limit: matrix products",
    "memory": "limit: weights and cache through memory",
}


def make_plan(max_len: int) -> Plan:
    """Return a single-rank plan with responses of a given number of tokens."""
    rl = RL(
        num_prompts_per_step=PROMPTS,
        num_generations_per_prompt=GROUP,
        prompt_len=PROMPT_LEN,
        max_response_len=max_len,
    )
    recipe = Recipe(
        model=MODEL,
        layouts={"cpu": Layout(gpus=1)},
        seq_len=PROMPT_LEN + max_len,
        global_batch_size=PROMPTS * GROUP,
        precision=Precision.FP32,
        rl=rl,
    )
    return resolve(recipe, system=find_system("cpu"))


def make_requests(max_len: int) -> list[Request]:
    """Return the samples of a step: a group of each prompt."""
    generator = torch.Generator().manual_seed(7)
    prompts = torch.randint(MODEL.vocab_size, (PROMPTS, PROMPT_LEN), generator=generator).tolist()
    return [
        Request(sample=sample, prompt=tuple(prompts[sample // GROUP]), max_len=max_len, is_pinned=True)
        for sample in range(PROMPTS * GROUP)
    ]


def make_generator(plan: Plan, *, weights: Decoder) -> NativeGenerator:
    """Return our engine with these weights."""
    generator = NativeGenerator(plan, mesh=GenerationMesh(), device=CPU)
    for name, room in generator.allocate().items():
        room.copy_(weights.get_parameter(name).detach())
    generator.on_weights_updated()
    return generator


def make_reference(plan: Plan, *, weights: Decoder) -> Any:
    """Return transformers' model with the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=MODEL.vocab_size,
        hidden_size=MODEL.hidden_size,
        intermediate_size=MODEL.ffn_hidden_size,
        num_hidden_layers=MODEL.num_layers,
        num_attention_heads=MODEL.num_heads,
        num_key_value_heads=MODEL.num_kv_heads,
        head_dim=MODEL.head_dim,
        max_position_embeddings=plan.seq_len,
        rms_norm_eps=MODEL.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": MODEL.rope_theta},
        attn_implementation="sdpa",
        dtype="float32",
    )
    reference = LlamaForCausalLM(config)
    reference.load_state_dict(reference_weights(plan, weights=weights))
    return reference.eval()


@torch.no_grad()
def reference_generate(reference: Any, requests: Sequence[Request]) -> torch.Tensor:
    """Sample with transformers, shape (samples, prompt + response); the end token is forbidden."""
    prompts = torch.tensor([request.prompt for request in requests])
    length = requests[0].max_len
    out: torch.Tensor = reference.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        do_sample=True,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        min_new_tokens=length,
        max_new_tokens=length,
        eos_token_id=STOP_TOKEN,
        pad_token_id=0,
    )
    assert out.shape == (len(requests), PROMPT_LEN + length)
    return out


@torch.no_grad()
def check_equal(reference: Any, requests: Sequence[Request], *, responses: Sequence[Response]) -> float:
    """Return the largest difference of our log-probabilities from transformers'; exit if it is not rounding."""
    prompts = torch.tensor([request.prompt for request in requests])
    tokens = torch.tensor([response.tokens for response in responses])
    ours = torch.tensor([response.logprobs for response in responses])
    logits = reference(input_ids=torch.cat([prompts, tokens], dim=1)).logits
    theirs = logits[:, PROMPT_LEN - 1 : -1].log_softmax(-1).gather(2, tokens[..., None])[..., 0]
    worst = float((theirs - ours).abs().max())
    if worst > TOLERANCE:
        sys.exit(f"log-probabilities differ by {worst:.1e}: not the same model, nothing to compare")
    return worst


def product_round() -> Callable[[], None]:
    """Return a function that does the matrix products of one decoding step, attention's apart."""
    tokens = PROMPTS * GROUP
    width = MODEL.hidden_size
    ffn = MODEL.ffn_hidden_size
    fused = (MODEL.num_heads + 2 * MODEL.num_kv_heads) * MODEL.head_dim
    block = [(width, fused), (MODEL.num_heads * MODEL.head_dim, width), (width, 2 * ffn), (ffn, width)]
    shapes = [*block * MODEL.num_layers, (width, MODEL.vocab_size)]
    pairs = [(torch.randn(tokens, inputs), torch.randn(outputs, inputs)) for inputs, outputs in shapes]

    def run() -> None:
        for x, weight in pairs:
            torch.nn.functional.linear(x, weight)

    return run


def bytes_per_step(max_len: int) -> float:
    """Return the bytes of weights and cache that a decoding step reads, the mean over a response."""
    weights = num_parameters(MODEL) - MODEL.vocab_size * MODEL.hidden_size  # of the embedding, one row a token
    keys_values = 2 * MODEL.num_layers * MODEL.num_kv_heads * MODEL.head_dim
    return 4 * (weights + PROMPTS * GROUP * keys_values * (PROMPT_LEN + max_len / 2))


def copy_rate() -> float:
    """Return bytes/s read and written by a copy far larger than the caches."""
    source = torch.ones(2**25)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / timed(lambda: target.copy_(source))


@contextmanager
def vllm_of(plan: Plan, *, requests: Sequence[Request], python: str | None) -> Iterator[Peer | None]:
    """Start vLLM on the same prompts; yield None without an interpreter for it."""
    if python is None:
        yield None
        return
    prompts = [request.prompt for request in requests[::GROUP]]
    with tempfile.TemporaryDirectory() as folder:
        workload = {**workload_of(plan), "prompts": prompts, "num_threads": torch.get_num_threads()}
        with started_peer("vllm_peer.py", workload=workload, folder=Path(folder), python=python) as peer:
            yield peer


def measure(*, rounds: int, max_len: int, vllm_python: str | None) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each round by engine, and the largest difference of log-probabilities."""
    plan = make_plan(max_len)
    (weights,) = parallelize(plan, mesh=RankMesh(), device=CPU)
    assert isinstance(weights, Decoder)
    generator = make_generator(plan, weights=weights)
    reference = make_reference(plan, weights=weights)
    requests = make_requests(max_len)
    worst = check_equal(reference, requests, responses=generator.generate(requests, seed=0).responses)
    products = product_round()
    seconds: dict[str, list[float]] = {}
    with vllm_of(plan, requests=requests, python=vllm_python) as vllm:
        for number in range(-WARM_ROUNDS, rounds):
            row = {
                "native": timed(lambda: generator.generate(requests, seed=number)),  # noqa: B023 (called at once)
                "transformers": timed(lambda: reference_generate(reference, requests)),
                "products": max_len * timed(products, repeats=max_len),
                "memory": max_len * bytes_per_step(max_len) / copy_rate(),
            }
            if vllm is not None:
                (round_of_vllm,) = vllm.run(1)
                assert round_of_vllm["num_response_tokens"] == len(requests) * max_len
                row["vllm"] = round_of_vllm["generation"]
            if number >= 0:
                for name, value in row.items():
                    seconds.setdefault(name, []).append(value)
    return seconds, worst


def compare(*, rounds: int, max_len: int, vllm_python: str | None) -> None:
    """Print tokens/s of each engine, ratios round by round, and the limits."""
    seconds, worst = measure(rounds=rounds, max_len=max_len, vllm_python=vllm_python)
    num_tokens = PROMPTS * GROUP * max_len
    print(
        f"{MODEL.name}: {PROMPTS} prompts of {PROMPT_LEN} tokens, {GROUP} responses of {max_len} tokens each, fp32; "
        f"log-probabilities agree to {worst:.0e}\n"
    )
    rows = []
    for name, times in seconds.items():
        tokens_per_sec = rates(num_tokens, seconds=times)
        rows.append([LIMITS.get(name, name), spread(times, scale=1e3, digits=1), spread(tokens_per_sec, digits=0)])
    print(markdown_table(["", "ms", "tokens/s"], rows=rows))
    print()
    for name, times in seconds.items():
        to_native = ratios(times, to=seconds["native"])
        if name in LIMITS:
            print(f"time of the {name} / native: {spread(to_native, scale=100, digits=0)} %")
        elif name != "native":
            print(f"native / {name}, tokens/s of the same round: {spread(to_native)}")


def growth(*, rounds: int) -> None:
    """Print the cost of a token by the number of tokens generated."""
    plan = make_plan(max(GROWTH))
    (weights,) = parallelize(plan, mesh=RankMesh(), device=CPU)
    assert isinstance(weights, Decoder)
    generator = make_generator(plan, weights=weights)
    costs: dict[int, list[float]] = {length: [] for length in GROWTH}
    generator.generate(make_requests(max(GROWTH)), seed=0)
    for number in range(rounds):
        for length in GROWTH:
            requests = make_requests(length)
            seconds = timed(lambda: generator.generate(requests, seed=number))  # noqa: B023 (called at once)
            costs[length].append(seconds / (len(requests) * length))
    rows = [[str(length), spread(values, scale=1e6, digits=1)] for length, values in costs.items()]
    print("\nattention apart, the cost of a token does not depend on the number of tokens before it\n")
    print(markdown_table(["generated tokens", "us a token"], rows=rows))


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--max-len", type=int, default=64, help="generated tokens of each sample")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--growth-rounds", type=int, default=3, help="of the cost by length; 0 leaves it out")
    parser.add_argument("--vllm-python", help="an interpreter that has vllm")
    arguments = parser.parse_args()
    try:
        import transformers
    except ImportError:
        sys.exit("transformers is not installed, nothing to compare with: pip install 'pytest-nemoperf[bench]'")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    tune_host_memory()
    # As in a rank, keep the garbage collector from objects that live to the end, here transformers' as well.
    gc.collect()
    gc.freeze()
    compare(rounds=arguments.rounds, max_len=arguments.max_len, vllm_python=arguments.vllm_python)
    if arguments.growth_rounds:
        growth(rounds=arguments.growth_rounds)
    print(f"\n{torch.get_num_threads()} threads, transformers {transformers.__version__}; {machine_line()}")


if __name__ == "__main__":
    main()
