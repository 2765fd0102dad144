"""Checks of a dataclass' fields by their annotations: the type of each, and the bounds of each kind of number.

Bounds are far above what is published, and low enough that whatever keeps to all of them is read, planned and priced
within a second: sizes are multiplied, but layers, stages and the samples of a step are counted one by one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from pytest_nemoperf.errors import RecipeError, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Range of one kind of number.

    Attributes:
        least: Smallest value.
        most: Largest value.
        why: Largest value known, in words.
    """

    least: float = 0
    most: float
    why: str


_TINY: Final = 1e-30
"""Smallest number but 0: quotients of smaller ones are beyond what a float holds."""
LAYERS: Final = Bound(least=1, most=1_000, why="the deepest published model has 126 layers")
DEPTHS: Final = Bound(most=100, why="published models predict up to 3 further tokens")
SIZES: Final = Bound(least=1, most=10**9, why="the largest published size is a vocabulary of 262,208")
COUNTS: Final = Bound(least=1, most=10**6, why="published models have up to 512 experts and 256 heads")
TOKENS: Final = Bound(least=1, most=10**9, why="the longest published context has 10,000,000 tokens")
RUN_TOKENS: Final = Bound(least=1, most=10**18, why="the longest published runs take some 4e13 tokens")
RANKS: Final = Bound(least=1, most=10**7, why="the largest known machines have some 100,000 GPUs")
SEQUENCES: Final = Bound(least=1, most=10**8, why="published batches have up to some 10,000 sequences")
SAMPLES: Final = Bound(least=1, most=20_000, why="published steps have up to 2,048 samples")
STEPS: Final = Bound(least=1, most=10**6, why="a performance test has some 10 steps")
RUNS: Final = Bound(least=1, most=1_000, why="5 launches make a baseline")
SECONDS: Final = Bound(least=_TINY, most=10**8, why="that is three years")
SHARES: Final = Bound(most=1e15, why="factors and rates lie around 1")
FACTORS: Final = Bound(least=_TINY, most=1e15, why=SHARES.why)
WORDS: Final = Bound(least=-(2**63), most=2**64 - 1, why="integers have 64 bits in files and in random generators")
_AMOUNTS: Final = Bound(least=_TINY, most=1e40, why="a step of the largest published runs takes some 1e22 FLOPs")


def _optional(bound: Bound) -> Bound:
    """Return a bound that allows zero, for parts that may be absent."""
    return Bound(least=0, most=bound.most, why=bound.why)


BOUNDS: Final[Mapping[str, Bound]] = MappingProxyType(
    {
        **dict.fromkeys(("num_layers", "layer_interval"), LAYERS),
        **dict.fromkeys(
            ("num_dense_layers", "num_hash_layers", "full_attention_interval", "nope_interval"), _optional(LAYERS)
        ),
        "mtp_num_layers": DEPTHS,
        "inject_pct": SHARES,
        **dict.fromkeys(
            (
                "ffn_hidden_size",
                "head_dim",
                "hidden_size",
                "index_head_dim",
                "key_head_dim",
                "kv_lora_rank",
                "latent_size",
                "o_lora_rank",
                "q_lora_rank",
                "qk_nope_head_dim",
                "qk_rope_head_dim",
                "rope_dim",
                "rope_head_dim",
                "state_dim",
                "top_k",
                "v_head_dim",
                "value_head_dim",
                "vocab_size",
            ),
            SIZES,
        ),
        "shared_ffn_hidden_size": _optional(SIZES),
        **dict.fromkeys(
            (
                "conv_kernel",
                "index_num_heads",
                "num_experts",
                "num_groups",
                "num_heads",
                "num_iterations",
                "num_key_heads",
                "num_kv_heads",
                "num_output_groups",
                "num_streams",
                "num_value_heads",
                "topk",
                "topk_groups",
            ),
            COUNTS,
        ),
        **dict.fromkeys(
            (
                "index_topk",
                "indexed_ratio",
                "max_operand",
                "max_positions",
                "max_response_len",
                "min_prompt_len",
                "prompt_len",
                "response_lengths",
                "sliding_window",
            ),
            TOKENS,
        ),
        **dict.fromkeys(("original_context", "ratios", "seq_len"), _optional(TOKENS)),
        **dict.fromkeys(
            ("gpus", "tp", "pp", "vp", "cp", "ep", "etp", "dp_replicate", "dp_shard", "num_gpus", "num_nodes"), RANKS
        ),
        **dict.fromkeys(("micro_batch_size", "grad_accum_steps"), SEQUENCES),
        "global_batch_size": _optional(SEQUENCES),
        **dict.fromkeys(("num_prompts_per_step", "num_generations_per_prompt", "max_batch_size"), SAMPLES),
        **dict.fromkeys(("steps", "block_steps", "max_rounds"), STEPS),
        **dict.fromkeys(("max_staleness", "warmup_steps"), _optional(STEPS)),
        "timeout_sec": SECONDS,
        "seed": WORDS,
        **dict.fromkeys(
            ("tokens_per_step", "flops_per_token", "min_flops_per_token", "most_tflops", "peak_tflops"),
            _AMOUNTS,
        ),
        **dict.fromkeys(
            (
                "activation_limit",
                "attention_factor",
                "attention_softcap",
                "embedding_scale",
                "factor",
                "final_softcap",
                "high_freq",
                "importance_cap",
                "learning_rate",
                "logit_scale",
                "low_freq",
                "norm_eps",
                "query_scale",
                "query_temperature",
                "rope_local_theta",
                "rope_theta",
                "scaling_factor",
                "temperature",
                "tolerances",
                "top_p",
            ),
            FACTORS,
        ),
        **dict.fromkeys(
            (
                "clip_high",
                "clip_low",
                "discount",
                "gae_lambda",
                "kl_coef",
                "overlong_penalty",
                "overlong_share",
                "softmax_mscale",
                "value_clip",
                "value_coef",
            ),
            SHARES,
        ),
    }
)
"""Bounds by the name of a field; a list's and a mapping's are those of each number in it."""
_MAX_DIGITS: Final = 19
MAX_ITEMS: Final = 20_000
"""Values of a list: response lengths, ratios, words of a command."""


def check_fields(part: Any, *, subject: str = "", of: str = "") -> None:
    """Check the fields of a dataclass: types by their annotations, numbers by their bounds.

    Fields that are dataclasses check themselves. A list does for a tuple, and a whole number for a float.

    Args:
        part: The dataclass.
        subject: Beginning of messages, before the name of a field.
        of: Words behind the value.

    Raises:
        RecipeError: With field, value and rule.
    """
    for problem in field_problems(part, of=of):
        raise RecipeError(f"{subject}{problem}")


def field_problems(part: Any, *, of: str = "") -> Iterator[str]:
    """Yield the message of each broken rule; see check_fields."""
    dataclass: type = type(part)
    for name, kind in _kinds(dataclass).items():
        yield from _problems(getattr(part, name), kind, name=name, bound=BOUNDS.get(name), of=of)


def bound_problem(value: float, *, name: str, bound: Bound, of: str = "") -> str | None:
    """Return the message about a number beyond its bounds; None for one within."""
    if value > bound.most:
        return f"{name}={shown(value)}{of} is beyond {_number(bound.most)}; {bound.why}"
    if bound.least == _TINY and 0 < value < _TINY:
        return f"{name}={shown(value)}{of} is too near to 0 to divide by; use {_TINY:g} or more"
    if value < bound.least:
        return f"{name}={shown(value)}{of} must be {_number_rule(bound, noun='a number')}"
    return None


def _number_rule(bound: Bound | None, *, noun: str) -> str:
    """Return the rule of a number's lower end in words."""
    if bound is None or bound.least < 0:
        return noun
    if bound.least == _TINY:
        return f"{noun} above 0"
    return f"{noun} >= {_number(bound.least)}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def whole_number(text: str) -> int | None:
    """Return the whole number that a text is, of ASCII digits alone; None for another text, or more than 64 bits."""
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS:
        return None
    return int(text)


@cache
def _kinds(dataclass: type) -> Mapping[str, Any]:
    """Return the types of a dataclass' fields by name."""
    hints = get_type_hints(dataclass)
    return MappingProxyType({field.name: hints[field.name] for field in fields(dataclass)})


def _problems(value: object, kind: Any, *, name: str, bound: Bound | None, of: str) -> Iterator[str]:
    """Yield the faults of a value and of those in it."""
    options = _options(kind)
    if Any in options:
        return
    option = next((option for option in options if _is_of(value, option)), None)
    if option in (int, float):
        yield from _number_problems(value, name=name, rule=_rule(options, bound=bound), bound=bound, of=of)
    elif get_origin(option) is tuple:
        yield from _item_problems(value, get_args(option), name=name, bound=bound)
    elif _is_mapping(option):
        key_kind, value_kind = get_args(option)
        for key, each in value.items():  # type: ignore[attr-defined]  # a mapping, as _is_of found
            yield from _problems(key, key_kind, name=f"a key of {name}", bound=None, of="")
            yield from _problems(each, value_kind, name=f"{name}[{shown(key)}]", bound=bound, of="")
    elif option is None:
        hint = "; write str(...)" if kind is str and value is not None else ""
        yield f"{name}={shown(value)}{of} must be {_rule(options, bound=bound)}{hint}"


def _number_problems(value: Any, *, name: str, rule: str, bound: Bound | None, of: str) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{name}={shown(value)}{of} must be {rule.replace('a number', 'a finite number')}"
    elif bound is not None and value < bound.least and not 0 < value < _TINY:
        yield f"{name}={shown(value)}{of} must be {rule}"
    elif bound is not None and (problem := bound_problem(value, name=name, bound=bound, of=of)):
        yield problem


def _item_problems(values: Any, kinds: tuple[Any, ...], *, name: str, bound: Bound | None) -> Iterator[str]:
    if len(values) > MAX_ITEMS:
        yield f"{name} has {len(values):,} values, which is beyond {MAX_ITEMS:,}"
        return
    if kinds[-1] is not Ellipsis and len(values) != len(kinds):
        yield f"{name}={shown(values)} must have {len(kinds)} values"
        return
    for index, value in enumerate(values):
        kind = kinds[0] if kinds[-1] is Ellipsis else kinds[index]
        yield from _problems(value, kind, name=f"{name}[{index}]", bound=bound, of="")


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or a type alone."""
    if get_origin(kind) in (Union, UnionType):
        return get_args(kind)
    return (kind,)


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value is of a type; for tuples and mappings whether it is one."""
    origin = get_origin(kind)
    if origin is Literal:
        return any(type(value) is type(word) and value == word for word in get_args(kind))
    if origin is tuple:
        return isinstance(value, (list, tuple))
    if origin is not None:
        return isinstance(value, origin)
    if kind is float:
        return type(value) in (int, float)
    if kind in (int, bool, str):
        return type(value) is kind
    return isinstance(value, kind)


def _rule(options: tuple[Any, ...], *, bound: Bound | None) -> str:
    """Return the types of a union in words."""
    names: list[str] = []
    for option in options:
        names += _kind_names(option, bound=bound)
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _kind_names(kind: Any, *, bound: Bound | None) -> list[str]:
    """Return a type in words; each word of a Literal, each member of an enum."""
    origin = get_origin(kind)
    if origin is Literal:
        return list(map(repr, get_args(kind)))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [repr(str(member)) for member in kind]
    if origin is tuple:
        items = _PLURALS.get(get_args(kind)[0])
        return [f"a list of {items}" if items else "a list"]
    if kind in (int, float):
        return [_number_rule(bound, noun="a whole number" if kind is int else "a number")]
    if is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]  # a class, not an instance of one
        return [f"{'an' if name[0] in 'AEIOR' else 'a'} {name}"]
    return [_NAMES.get(kind, "a mapping")]


_NAMES: Final = MappingProxyType({bool: "True or False", str: "a text", NoneType: "None"})
_PLURALS: Final = MappingProxyType({int: "whole numbers", float: "numbers", str: "texts"})
