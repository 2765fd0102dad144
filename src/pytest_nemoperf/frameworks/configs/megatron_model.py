"""Architectures from Megatron's names: arguments of Megatron-LM, attributes of Megatron-Bridge's model providers.

Sources: megatron/training/arguments.py, megatron/core/transformer/transformer_config.py and
megatron/core/models/gpt/gpt_layer_specs.py of NVIDIA/Megatron-LM@d98e8a64d.
"""

from __future__ import annotations

import ast
from typing import Any, Final

from pytest_nemoperf.bounds import whole_number
from pytest_nemoperf.errors import RecipeError, shorten
from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel
from pytest_nemoperf.frameworks.configs.megatron_arguments import MegatronArguments
from pytest_nemoperf.models.architecture import build_model
from pytest_nemoperf.models.components import Activation
from pytest_nemoperf.models.huggingface.names import hub_models

_GPT2_VOCAB: Final = 50_257
_LLAMA2_VOCAB: Final = 32_000
_NOT_UNDERSTOOD = (
    "heterogeneous-layers-config-path",
    "encoder-num-layers",
    "use-mup",
    "flextron",
    "num-channels",
    "mamba-model",
    "enable-hyper-connections",
    "enable-mhc-connections",
    "moe-n-hash-layers",
)
_LETTERS: Final = frozenset("M*-E")
_SCORES: Final = ("softmax", "sigmoid", "sqrtsoftplus")


def megatron_model(arguments: MegatronArguments) -> NamedModel:
    """Return the architecture that arguments describe, or the reason that it can't be told."""
    for name in _NOT_UNDERSTOOD:
        if name in arguments:
            return NamedModel(unread=f"--{name} is not understood")
    vocab = _vocab_size(arguments)
    if isinstance(vocab, str):
        return NamedModel(unread=vocab)
    try:
        values = _values(arguments, vocab_size=vocab)
        name = _name(values)
        return NamedModel(model=build_model(name, values))
    except RecipeError as error:
        return NamedModel(unread=str(error).removeprefix(f"{arguments.subject}: "))


def _name(values: dict[str, Any]) -> str:
    kind = "hybrid" if values.get("hybrid_pattern") else "gpt"
    name = f"{kind}-l{values['num_layers']}-h{values['hidden_size']}"
    if values.get("moe"):
        name += f"-e{values['moe']['num_experts']}"
    return name


def _values(arguments: MegatronArguments, *, vocab_size: int) -> dict[str, Any]:
    """Return the values of a ModelConfig.

    Raises:
        RecipeError: If a size is missing, or a choice is not understood.
    """
    pattern, depth = _hybrid_pattern(arguments)
    num_layers = len(pattern) or _needed(arguments, "num-layers")
    hidden = _needed(arguments, "hidden-size")
    heads = _needed(arguments, "num-attention-heads")
    kv_heads = heads
    if "group-query-attention" in arguments:
        kv_heads = _needed(arguments, "num-query-groups")
    if hidden % heads and "kv-channels" not in arguments:
        raise RecipeError(f"--hidden-size {hidden} is not a multiple of --num-attention-heads {heads}")
    activation = _activation(arguments)
    has_bias = "disable-bias-linear" not in arguments
    values: dict[str, Any] = {
        "hidden_size": hidden,
        "num_layers": num_layers,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": arguments.count("kv-channels") or hidden // heads,
        "ffn_hidden_size": arguments.count("ffn-hidden-size") or _ffn_size(hidden, activation=activation),
        "vocab_size": vocab_size,
        "tied_embeddings": "untie-embeddings-and-output-weights" not in arguments,
        "activation": activation,
        "norm": "rmsnorm" if arguments.text("normalization", "LayerNorm") == "RMSNorm" else "layernorm",
        "norm_eps": arguments.number("norm-epsilon", 1e-5),
        "qkv_bias": has_bias or "add-qkv-bias" in arguments,
        "out_bias": has_bias,
        "mlp_bias": has_bias,
        "qk_norm": "rms" if "qk-layernorm" in arguments else None,
        "attention_sinks": arguments.text("softmax-type") == "learnable",
        "attention_gate": "attention-output-gate" in arguments,
        "mtp_num_layers": depth or arguments.count("mtp-num-layers") or 0,
        "is_mtp_shared": "mtp-use-repeated-layer" in arguments,
        **_positions(arguments, is_hybrid=bool(pattern)),
        **_windows(arguments),
    }
    if pattern:
        values["hybrid_pattern"] = pattern
        values["mamba"] = _mamba(arguments, hidden=hidden)
    if arguments.count("num-experts"):
        values["moe"] = _mixture(arguments, num_layers=num_layers, ffn_size=values["ffn_hidden_size"])
    if "multi-latent-attention" in arguments:
        values |= _latent(arguments, heads=heads)
    return values


def _needed(arguments: MegatronArguments, name: str) -> int:
    count = arguments.count(name)
    if not count:
        raise RecipeError(f"--{name} is not set")
    return count


def _ffn_size(hidden: int, *, activation: Activation) -> int:
    """Return Megatron's default width of the MLP."""
    if activation is Activation.SWIGLU:
        return int((4 * hidden * 2 / 3) / 64) * 64
    return 4 * hidden


def _activation(arguments: MegatronArguments) -> Activation:
    if "swiglu" in arguments:
        return Activation.SWIGLU
    if "squared-relu" in arguments:
        return Activation.SQUARED_RELU
    if "quick-geglu" in arguments:
        return Activation.CLAMPED_SWIGLU
    if "geglu" in arguments:
        return Activation.GEGLU
    return Activation.GELU


def _positions(arguments: MegatronArguments, *, is_hybrid: bool) -> dict[str, Any]:
    kind = arguments.text("position-embedding-type", "learned_absolute")
    if "use-rotary-position-embeddings" in arguments:
        kind = "rope"
    if is_hybrid or kind == "none":
        return {} if is_hybrid else {"nope_interval": 1}
    if kind == "learned_absolute":
        return {"max_positions": _needed(arguments, "max-position-embeddings")}
    if kind not in ("rope", "yarn"):
        raise RecipeError(f"--position-embedding-type {kind} is not understood")
    positions: dict[str, Any] = {"rope_theta": arguments.number("rotary-base", 10_000.0)}
    factor = arguments.number("rotary-scaling-factor", 1.0)
    if "use-rope-scaling" in arguments:
        factor = arguments.number("rope-scaling-factor", 8.0)
        positions["rope_scaling"] = {"kind": "llama3", "factor": factor, "original_context": 8192}
    elif factor > 1:
        positions["rope_scaling"] = {
            "kind": "yarn",
            "factor": factor,
            "original_context": arguments.count("original-max-position-embeddings") or 4096,
            "high_freq": arguments.number("beta-fast", 32.0),
            "low_freq": arguments.number("beta-slow", 1.0),
            "softmax_mscale": arguments.number("mscale-all-dim", 0.0),
        }
        if arguments.number("mscale", 1.0) == arguments.number("mscale-all-dim", 0.0):
            positions["rope_scaling"]["attention_factor"] = 1.0  # the quotient of both
    share = arguments.number("rotary-percent", 1.0)
    if share < 1:
        width = arguments.count("kv-channels") or (
            _needed(arguments, "hidden-size") // _needed(arguments, "num-attention-heads")
        )
        positions["rope_dim"] = int(width * share)
    return positions


def _windows(arguments: MegatronArguments) -> dict[str, Any]:
    """Return windows and linear attention; every N-th layer is full attention."""
    variant = arguments.text("experimental-attention-variant")
    if variant == "gated_delta_net":
        return {
            "full_attention_interval": _needed(arguments, "linear-attention-freq"),
            "gated_delta_net": {
                "num_key_heads": _needed(arguments, "linear-num-key-heads"),
                "key_head_dim": _needed(arguments, "linear-key-head-dim"),
                "num_value_heads": _needed(arguments, "linear-num-value-heads"),
                "value_head_dim": _needed(arguments, "linear-value-head-dim"),
                "conv_kernel": arguments.count("linear-conv-kernel-dim") or 4,
            },
        }
    if variant:
        raise RecipeError(f"--experimental-attention-variant {variant} is not understood")
    if "window-size" not in arguments:
        return {}
    before = ",".join(arguments.values["window-size"]).strip("()").partition(",")[0]
    interval = arguments.count("window-attn-skip-freq") or 0
    num_before = whole_number(before)
    if num_before is None:
        raise RecipeError(f"--window-size {shorten(before)} is not understood")
    return {"sliding_window": num_before + 1, "full_attention_interval": interval}


def _hybrid_pattern(arguments: MegatronArguments) -> tuple[str, int]:
    """Return one letter a layer of a hybrid, and the depth of its multi-token prediction; an empty one for others."""
    text = arguments.text("hybrid-layer-pattern") or arguments.text("hybrid-override-pattern")
    layers, *predictions = text.split("/")
    pattern = layers.replace("|", "")
    unknown = sorted(set(pattern) - _LETTERS)
    if unknown:
        raise RecipeError(f"--hybrid-layer-pattern has layers {', '.join(unknown)}, which are not understood")
    return pattern, len(predictions)


def _mamba(arguments: MegatronArguments, *, hidden: int) -> dict[str, Any]:
    head_dim = arguments.count("mamba-head-dim") or 64
    return {
        "num_heads": arguments.count("mamba-num-heads") or 2 * hidden // head_dim,
        "head_dim": head_dim,
        "state_dim": arguments.count("mamba-state-dim") or 128,
        "num_groups": arguments.count("mamba-num-groups") or 8,
    }


def _mixture(arguments: MegatronArguments, *, num_layers: int, ffn_size: int) -> dict[str, Any]:
    groups = arguments.count("moe-router-num-groups") or 1
    score = arguments.text("moe-router-score-function", "softmax")
    if score not in _SCORES:
        raise RecipeError(f"--moe-router-score-function {score} is not understood")
    return {
        "num_experts": _needed(arguments, "num-experts"),
        "topk": arguments.count("moe-router-topk") or 2,
        "ffn_hidden_size": arguments.count("moe-ffn-hidden-size") or ffn_size,
        "shared_ffn_hidden_size": arguments.count("moe-shared-expert-intermediate-size") or 0,
        "num_dense_layers": _dense_layers(arguments, num_layers=num_layers),
        "router": score,
        "scaling_factor": arguments.number("moe-router-topk-scaling-factor", 1.0),
        "num_groups": groups,
        "topk_groups": arguments.count("moe-router-group-topk") or 1,
        "group_score": "top2" if groups > 1 and score == "sigmoid" else "max",
        "has_score_correction": "moe-router-enable-expert-bias" in arguments,
        "shared_gate": "moe-shared-expert-gate" in arguments,
        "latent_size": arguments.count("moe-latent-size"),
    }


def _dense_layers(arguments: MegatronArguments, *, num_layers: int) -> int:
    """Return the layers at the beginning that keep a dense MLP.

    Raises:
        RecipeError: If dense layers lie elsewhere.
    """
    text = "".join(arguments.values.get("moe-layer-freq", ("1",)))
    layers = layer_pattern(text, num_layers=num_layers)
    dense = layers.index(1) if 1 in layers else len(layers)
    if 0 in layers[dense:] or len(layers) != num_layers or dense == num_layers:
        raise RecipeError(f"--moe-layer-freq {text} has dense layers after a mixture, which is not understood")
    return dense


def layer_pattern(text: str, *, num_layers: int) -> list[int]:
    """Return 1 for a mixture and 0 for a dense MLP by layer, of a text such as ``[0]*3+[1]*58`` or an interval.

    Raises:
        RecipeError: If it is neither.
    """
    try:
        value = _evaluated(ast.parse(text.strip("'\""), mode="eval").body)
    except (SyntaxError, ValueError, TypeError):
        raise RecipeError(f"--moe-layer-freq {text} is not understood") from None
    if isinstance(value, int) and value > 0:
        return [int(layer % value == 0) for layer in range(num_layers)]
    if not isinstance(value, list):
        raise RecipeError(f"--moe-layer-freq {text} is not understood")
    return value


def _evaluated(node: ast.expr) -> Any:
    """Return the value of an expression of numbers, lists, sums and products."""
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List):
        return [_evaluated(each) for each in node.elts]
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left = _evaluated(node.left)
        right = _evaluated(node.right)
        return left + right if isinstance(node.op, ast.Add) else left * right
    raise ValueError("neither numbers nor lists")


def _latent(arguments: MegatronArguments, *, heads: int) -> dict[str, Any]:
    mla = {
        "q_lora_rank": arguments.count("q-lora-rank"),
        "kv_lora_rank": arguments.count("kv-lora-rank") or 32,
        "qk_nope_head_dim": arguments.count("qk-head-dim") or 128,
        "qk_rope_head_dim": arguments.count("qk-pos-emb-head-dim") or 64,
        "v_head_dim": arguments.count("v-head-dim") or 128,
    }
    return {"mla": mla, "head_dim": mla["v_head_dim"], "num_kv_heads": heads, "qk_norm": None}


def _vocab_size(arguments: MegatronArguments) -> int | str:
    """Return the rows of the embedding before padding; the reason if only the tokenizer's files say them."""
    count = arguments.count("vocab-size") or arguments.count("padded-vocab-size")
    if count:
        return count
    kind = arguments.text("tokenizer-type")
    if kind == "GPT2BPETokenizer" or (not kind and "merge-file" in arguments):
        return _GPT2_VOCAB
    if kind == "Llama2Tokenizer":
        return _LLAMA2_VOCAB
    known = hub_models().get(arguments.text("tokenizer-model"))
    if known is not None:
        return known.vocab_size
    return (
        f"the vocabulary is that of --tokenizer-type {kind or '(none)'} {arguments.text('tokenizer-model')}".rstrip()
        + ", whose size no argument says; framework_options={'vocab-size': ...} does"
    )
