"""Typed access to a Hugging Face config, and the keys most families share."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from pytest_nemoperf.bounds import FACTORS, LAYERS, SIZES, Bound, bound_problem
from pytest_nemoperf.errors import RecipeError, shown
from pytest_nemoperf.json_faults import json_text

HARMLESS_KEYS: Final = frozenset(
    {
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "attn_implementation",
        "attn_pdrop",
        "auto_map",
        "aux_loss_alpha",
        "bos_token_id",
        "cache_implementation",
        "chunk_size",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "ep_size",
        "expand",
        "for_llm_compressor",
        "hidden_dropout",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "mamba_ssm_cache_dtype",
        "max_position_embeddings",
        "max_window_layers",
        "model_type",
        "moe_shared_expert_overlap",
        "n_ctx",
        "num_logits_to_keep",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "pretraining_tp",
        "qk_head_dim",
        "quantization_config",
        "reorder_and_upcast_attn",
        "rescale_prenorm_residual",
        "resid_pdrop",
        "residual_in_fp32",
        "return_dict",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "scale_attn_weights",
        "seq_aux",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "task_specific_params",
        "time_step_floor",
        "time_step_limit",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "use_mamba_kernels",
    }
)
"""Keys about training, storage or generation, and keys that repeat others."""


_MAX_SHOWN: Final = 160
_KIND_NAMES = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a text",
}


class ConfigReader:
    """Values of a config; remembers the keys that were read."""

    def __init__(self, data: Mapping[str, Any], *, subject: str) -> None:
        self._data = data
        self.subject = subject
        self._understood: set[str] = set()

    def with_defaults(self, defaults: Mapping[str, Any]) -> ConfigReader:
        """Return a reader of the same config with these values for absent and null keys."""
        given = {key: value for key, value in self._data.items() if value is not None}
        reader = ConfigReader({**defaults, **given}, subject=self.subject)
        reader._understood = self._understood  # shared: finish() must know the keys read from either
        return reader

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value; the default if the key is absent or null.

        Raises:
            RecipeError: If it is not of the default's kind.
        """
        value = self._value(key)
        if value is None:
            return default
        if default is None:
            return value
        return self._checked(key, value, kind=type(default))

    def optional(self, key: str, *, kind: type) -> Any:
        """Return the value; None if the key is absent or null.

        Raises:
            RecipeError: If it is not of its kind.
        """
        value = self._value(key)
        if value is None:
            return None
        return self._checked(key, value, kind=kind)

    def texts(self, key: str) -> list[str] | None:
        """Return a list of texts, one a layer; None if the key is absent or null.

        Raises:
            RecipeError: If it is anything else, or longer than a model has layers.
        """
        values: list[Any] | None = self.optional(key, kind=list)
        if values is None:
            return None
        for value in values:
            if not isinstance(value, str):
                self.refuse(key, values, "only a list of texts is")
        if len(values) > LAYERS.most:
            self.refuse(key, values, f"it has {len(values):,} entries, beyond {LAYERS.most:,} layers; {LAYERS.why}")
        return values

    def need_layers(self, key: str) -> int:
        """Return a number of layers.

        Raises:
            RecipeError: If it is absent, null, no positive whole number or beyond any model's.
        """
        number: int = self.need(key)
        if problem := bound_problem(number, name=key, bound=LAYERS):
            raise RecipeError(f"{self.subject}: {problem}")
        return number

    def need(self, key: str, *, kind: type = int) -> Any:
        """Return the value.

        Args:
            key: Key of the config.
            kind: Required type; whole numbers are sizes and counts, so they must be positive.

        Raises:
            RecipeError: If it is absent, null or not of its kind.
        """
        value = self._value(key)
        if value is None:
            family = self._data.get("model_type")
            raise RecipeError(f"{self.subject}: {key} is missing; a {family} config needs it")
        value = self._checked(key, value, kind=kind)
        if kind is int and value < 1:
            raise RecipeError(f"{self.subject}: {key}={shown(value)} must be a whole number >= 1")
        return value

    def expect(self, key: str, *, only: Any) -> None:
        """Refuse any value but one; absent and null stand for that one.

        Raises:
            RecipeError: If the value is another one.
        """
        value = self._value(key)
        if value is not None and value != only:
            self.refuse(key, value, f"only {json_text(only, most=_MAX_SHOWN)} is")

    def _value(self, key: str) -> Any:
        self._understood.add(key)
        return self._data.get(key)

    def _checked(self, key: str, value: Any, *, kind: type) -> Any:
        """Return the value as its kind; 8192.0 is a whole number, true is none."""
        is_number = type(value) in (int, float) and math.isfinite(value)
        if kind is int:
            if is_number and value == value // 1:
                return self._bounded(key, int(value), bound=SIZES)
        elif kind is float:
            if is_number:
                return self._bounded(key, value, bound=FACTORS)
        elif isinstance(value, kind):
            return value
        raise RecipeError(f"{self.subject}: {key}={json_text(value, most=_MAX_SHOWN)} must be {_KIND_NAMES[kind]}")

    def _bounded(self, key: str, value: float, *, bound: Bound) -> float:
        """Return a number; ModelConfig checks the lower end of its range, and that of its own kind."""
        if value > bound.most:
            raise RecipeError(f"{self.subject}: {bound_problem(value, name=key, bound=bound)}")
        return value

    def refuse(self, key: str, value: Any, reason: str) -> NoReturn:
        """Raise the error of a value that is not understood."""
        raise RecipeError(f"{self.subject}: {key}={json_text(value, most=_MAX_SHOWN)} is not understood; {reason}")

    def digest(self) -> str:
        """Return the first eight characters of a hash of the values read so far."""
        read = {}
        for key in self._understood:
            if self._data.get(key) is not None:
                read[key] = self._data[key]
        return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:8]

    def finish(self) -> None:
        """Refuse keys that were not read and are not known to be harmless.

        Raises:
            RecipeError: With all of them.
        """
        unknown = sorted(self._data.keys() - self._understood - HARMLESS_KEYS)
        if unknown:
            raise RecipeError(
                f"{self.subject}: {', '.join(unknown)} not understood; remove what does not change the architecture, "
                "or pass a ModelConfig"
            )


def read_decoder(config: ConfigReader, *, norm_eps: str = "rms_norm_eps", is_tied: bool = False) -> dict[str, Any]:
    """Return the values under keys common to all families but GPT-2.

    Args:
        config: The config.
        norm_eps: Key of the norms' epsilon.
        is_tied: Default of ``tie_word_embeddings``.
    """
    hidden = config.need("hidden_size")
    heads = config.need("num_attention_heads")
    head_dim = config.optional("head_dim", kind=int)
    if head_dim is None:
        head_dim = read_head_dim(config, hidden="hidden_size", heads="num_attention_heads")
    return {
        "hidden_size": hidden,
        "num_layers": config.need_layers("num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": head_dim,
        "ffn_hidden_size": config.need("intermediate_size"),
        "vocab_size": config.need("vocab_size"),
        "tied_embeddings": config.get("tie_word_embeddings", is_tied),
        "norm_eps": config.need(norm_eps, kind=float),
    }


def read_head_dim(config: ConfigReader, *, hidden: str, heads: str) -> int:
    """Return the width of a head as hidden size over heads.

    Args:
        config: The config.
        hidden: Key of the hidden size.
        heads: Key of the number of heads.

    Raises:
        RecipeError: If the quotient is not whole.
    """
    width = config.need(hidden)
    number = config.need(heads)
    if width % number:
        raise RecipeError(
            f"{config.subject}: {hidden}={width} is not a multiple of {heads}={number} "
            f"({width}/{number} = {width / number:g}), and no head_dim says how wide a head is; give it, or change them"
        )
    return int(width // number)


def read_rope(config: ConfigReader, *, theta: float = 10_000.0, layers: str = "") -> dict[str, Any]:
    """Return base and scaling of the rotary frequencies.

    They are in ``rope_parameters``, or in keys of their own in files before transformers 5.

    Args:
        config: The config.
        theta: The family's default base.
        layers: Kind of layers, for families whose parameters differ between kinds.
    """
    new = config.get("rope_parameters", {})
    if layers:
        new = new.get(layers, new)
        if not isinstance(new, dict):
            config.refuse("rope_parameters", new, f"only an object for {layers} is")
    parameters = {**config.get("rope_scaling", {}), **new}
    base = parameters.pop("rope_theta", None) or config.get("rope_theta", theta)
    if type(base) not in (int, float):
        config.refuse("rope_theta", base, "only a number is")
    parameters.pop("partial_rotary_factor", None)
    kind = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    parameters.pop("type", None)
    if not isinstance(kind, str):
        config.refuse("rope_type", kind, "only a text is")
    return {"rope_theta": float(base), "rope_scaling": _rope_scaling(config, kind, parameters)}


def _rope_scaling(config: ConfigReader, kind: str, parameters: dict[str, Any]) -> dict[str, Any] | None:
    if kind == "default":
        return None
    known = {
        "linear": {"factor": "factor"},
        "llama3": {
            "factor": "factor",
            "original_max_position_embeddings": "original_context",
            "low_freq_factor": "low_freq",
            "high_freq_factor": "high_freq",
        },
        "yarn": {
            "factor": "factor",
            "original_max_position_embeddings": "original_context",
            "beta_slow": "low_freq",
            "beta_fast": "high_freq",
            "attention_factor": "attention_factor",
            "truncate": "truncates",
            "mscale": "mscale",
            "mscale_all_dim": "mscale_all_dim",
        },
    }
    if kind not in known:
        config.refuse("rope_type", kind, f"only {', '.join(known)} are")
    unknown = parameters.keys() - known[kind].keys()
    if unknown:
        config.refuse("rope_scaling", sorted(unknown), f"{kind} has {', '.join(known[kind])}")
    if parameters.get("factor") is None:
        raise RecipeError(f"{config.subject}: the factor of the {kind} rope_scaling is missing; give it")
    for key, value in parameters.items():
        if value is not None and (type(value) not in (int, float) or not value >= 0) and key != "truncate":
            config.refuse(f"rope_scaling: {key}", value, "only a number >= 0 is")
    if not parameters["factor"]:
        config.refuse("rope_scaling: factor", parameters["factor"], "only a number above 0 is")
    scaling: dict[str, Any] = {}
    for key, value in parameters.items():
        if value is not None:
            scaling[known[kind][key]] = value
    if kind == "yarn":
        scaling = {"high_freq": 32.0, "original_context": config.get("max_position_embeddings"), **scaling}
        scale = scaling.pop("mscale", 0)
        all_dims = scaling.pop("mscale_all_dim", 0)
        if scale and all_dims and "attention_factor" not in scaling:
            scaling["attention_factor"] = _mscale(scaling["factor"], scale) / _mscale(scaling["factor"], all_dims)
        scaling["softmax_mscale"] = all_dims
    return {"kind": kind, **scaling}


def _mscale(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1.0


def read_rope_dim(config: ConfigReader, *, head_dim: int, default: float) -> int:
    """Return the rotated elements of a head."""
    share = config.get("rope_parameters", {}).get("partial_rotary_factor")
    share = share or config.get("partial_rotary_factor", default)
    if type(share) not in (int, float) or not 0 < share <= 1:
        config.refuse("partial_rotary_factor", share, "only a number above 0 and at most 1 is")
    return int(head_dim * share)


def read_interval(config: ConfigReader, *, num_layers: int, default: int, other: str) -> int:
    """Return N if every N-th layer has full attention and the others are of the other kind; 0 for no such layer.

    Args:
        config: The config.
        num_layers: Length of ``layer_types``, if the file has it.
        default: The family's N.
        other: Name of the other kind in ``layer_types``.

    Raises:
        RecipeError: If ``layer_types`` is another pattern.
    """
    interval: int = default
    for key in ("full_attention_interval", "sliding_window_pattern", "_sliding_window_pattern"):
        interval = config.get(key, interval)
    types = config.texts("layer_types")
    if types is not None:
        interval = 0
        if "full_attention" in types:
            interval = types.index("full_attention") + 1
        expected = [other] * num_layers
        if interval:
            for index in range(interval - 1, num_layers, interval):
                expected[index] = "full_attention"
        if types != expected:
            config.refuse("layer_types", types, f"only a full_attention layer after every so many {other} is")
    return interval
