"""Compare native generation with transformers' ``generate`` and vLLM, and with what the machine allows.

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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from native_step import reference_weights
from peers import Peer, started_peer, workload_of
from tables import machine_line, markdown_table, spread

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.native.device import available_cores, tune_host_memory
from pytest_nemoperf.native.generation import NativeGenerator
from pytest_nemoperf.native.mesh import GenerationMesh, RankMesh
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.parallelize import parallelize
from pytest_nemoperf.native.rollouts import Request, Response
from pytest_nemoperf.parallelism import Layout
from pytest_nemoperf.plan import resolve
from pytest_nemoperf.recipe import Plan, Precision, Recipe
from pytest_nemoperf.rl import RL, STOP_TOKEN
from pytest_nemoperf.systems import find_system

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


def make_plan(max_len: int) -> Plan:
    """Return a single-rank plan whose responses have so many tokens."""
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
    generator.refitted()
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
    """Return what transformers samples: as many tokens, the end token forbidden until then."""
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
    """Return how far our log-probabilities are from those of transformers' forward pass; exit if not by rounding."""
    pairs = list(zip(requests, responses, strict=True))
    tokens = torch.tensor([[*request.prompt, *response.tokens] for request, response in pairs])
    logprobs = reference(input_ids=tokens).logits[:, PROMPT_LEN - 1 : -1].log_softmax(-1)
    theirs = logprobs.gather(2, tokens[:, PROMPT_LEN:, None])[..., 0]
    worst = float((theirs - torch.tensor([response.logprobs for response in responses])).abs().max())
    if worst > TOLERANCE:
        sys.exit(f"log-probabilities differ by {worst:.1e}: not the same model, nothing to compare")
    return worst


def product_round() -> Callable[[], None]:
    """Return a function that does the matrix products of one decoding step, attention's apart."""
    tokens, width, ffn = PROMPTS * GROUP, MODEL.hidden_size, MODEL.ffn_hidden_size
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
    weights = sum(weight.numel() for weight in _decoder_weights())
    keys_values = 2 * MODEL.num_layers * MODEL.num_kv_heads * MODEL.head_dim
    return 4 * (weights + PROMPTS * GROUP * keys_values * (PROMPT_LEN + max_len / 2))


def _decoder_weights() -> list[torch.Tensor]:
    with torch.device("meta"):
        model = Decoder(MODEL, seq_len=PROMPT_LEN, dtype=torch.float32)
    return [weight for name, weight in model.named_parameters() if name != "embedding.weight"]  # one row a token


def copy_rate() -> float:
    """Return bytes/s read and written by a copy far larger than the caches."""
    source = torch.ones(2**25)
    target = torch.empty_like(source)
    target.copy_(source)
    start = time.perf_counter()
    target.copy_(source)
    return 2 * source.nbytes / (time.perf_counter() - start)


def timed(run: Callable[[], object], *, repeats: int = 1) -> float:
    """Return seconds of one call."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


@contextmanager
def vllm_of(plan: Plan, *, requests: Sequence[Request], python: str | None) -> Iterator[Peer | None]:
    """Start vLLM on the same prompts, where there is an interpreter that has it."""
    if python is None:
        yield None
        return
    prompts = [request.prompt for request in requests[::GROUP]]
    with tempfile.TemporaryDirectory() as folder:
        workload = {**workload_of(plan), "prompts": prompts, "num_threads": torch.get_num_threads()}
        with started_peer("vllm_peer.py", workload=workload, folder=Path(folder), python=python) as peer:
            yield peer


def measure(*, rounds: int, max_len: int, vllm_python: str | None) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each round, and how far log-probabilities are apart."""
    plan = make_plan(max_len)
    (weights,) = parallelize(plan, mesh=RankMesh(), device=CPU)
    assert isinstance(weights, Decoder)
    generator, reference = make_generator(plan, weights=weights), make_reference(plan, weights=weights)
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
    """Print tokens/s of all, ratios round by round, and the limits."""
    seconds, worst = measure(rounds=rounds, max_len=max_len, vllm_python=vllm_python)
    num_tokens = PROMPTS * GROUP * max_len
    print(
        f"{MODEL.name}: {PROMPTS} prompts of {PROMPT_LEN} tokens, {GROUP} responses of {max_len} tokens each, fp32; "
        f"log-probabilities agree to {worst:.0e}\n"
    )
    rows = [
        [name, spread([1e3 * t for t in times], digits=1), spread([num_tokens / t for t in times], digits=0)]
        for name, times in seconds.items()
    ]
    rows[2][0], rows[3][0] = "limit: matrix products", "limit: weights and cache through memory"
    print(markdown_table(["", "ms", "tokens/s"], rows=rows))
    print()
    for peer in [name for name in ("transformers", "vllm") if name in seconds]:
        print(f"native / {peer}, tokens/s of the same round: {spread(_ratios(seconds, peer))}")
    for limit in ("products", "memory"):
        print(f"time of the {limit} / native: {spread([100 * r for r in _ratios(seconds, limit)], digits=0)} %")


def _ratios(seconds: dict[str, list[float]], name: str) -> list[float]:
    return [other / ours for other, ours in zip(seconds[name], seconds["native"], strict=True)]


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
            costs[length].append(1e6 * seconds / (len(requests) * length))
    rows = [[str(length), spread(values, digits=1)] for length, values in costs.items()]
    print("\nattention apart, what a token costs does not depend on how many came before it\n")
    print(markdown_table(["generated tokens", "us a token"], rows=rows))


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
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
    # As in a rank: collections need not look at what lives to the end. Here that is transformers too.
    gc.collect()
    gc.freeze()
    compare(rounds=arguments.rounds, max_len=arguments.max_len, vllm_python=arguments.vllm_python)
    if arguments.growth_rounds:
        growth(rounds=arguments.growth_rounds)
    print(f"\n{torch.get_num_threads()} threads, transformers {transformers.__version__}; {machine_line()}")


if __name__ == "__main__":
    main()
