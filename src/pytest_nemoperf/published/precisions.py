"""Number formats of published rows: those of printed words, and those that follow from the rest of a page."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.recipe import Precision

_WORDS: Final[Mapping[str, Precision]] = MappingProxyType(
    {
        "BF16": Precision.BF16,
        "FP8-CS": Precision.FP8_CS,
        "FP8-MX": Precision.MXFP8,
        "MXFP8": Precision.MXFP8,
        "NVFP4": Precision.NVFP4,
    }
)
_EIGHT_BITS: Final = frozenset({Precision.FP8_DS, Precision.FP8_CS, Precision.FP8_SC})
_SCALINGS: Final[Mapping[str, tuple[Precision, str]]] = MappingProxyType(
    {
        "megatron_bridge": (Precision.FP8_CS, "current scaling, as in Megatron-Bridge's recipes"),
        "nemo": (Precision.FP8_DS, "delayed scaling, the default of NeMo and transformer-engine"),
        "nemo_rl": (Precision.FP8_SC, "subchannel scaling, as in NeMo RL's recipes"),
    }
)
"""Scaling of a row that prints FP8 alone, by its framework, with the source."""
_INSIDE: Final = "inside parentheses"
_UNNAMED_RELEASE: Final = "25.09"
"""Release of Megatron-Bridge whose tables print no precision."""


def row_precision(row: PublishedRow) -> tuple[Precision, tuple[str, ...]]:
    """Return the precision of a row, and notes on an assumed one.

    Megatron-Bridge's page of 25.09 prints none. It says that numbers inside parentheses have other quantization: 32x32
    on GB200 and B200, 1x128 with weights of 128x128 on H100; and its page of 25.11 prints FP8-CS and FP8-MX for nearly
    the same figures, outside and inside parentheses.

    Raises:
        RecipeError: If it has no counterpart here.
    """
    if row.precision in _WORDS:
        return _WORDS[row.precision], ()
    if row.precision == "FP8":
        if row.framework not in _SCALINGS:
            raise RecipeError(f"FP8 without its scaling leaves open which format {row.framework} ran")
        precision, source = _SCALINGS[row.framework]
        return precision, (f"the scaling of FP8: {source}",)
    if row.precision:
        raise RecipeError(f"precision {row.precision!r} is none of {', '.join((*_WORDS, 'FP8'))}")
    if row.framework == "megatron_bridge" and row.release == _UNNAMED_RELEASE:
        return _of_parentheses(row)
    return Precision.BF16, ("precision bf16, an assumption",)


def printed_precisions(word: str) -> frozenset[Precision]:
    """Return the formats that a printed word may stand for: several for FP8 alone; none for an unknown word."""
    if word == "FP8":  # any scaling with factors of whole tensors or tiles
        return _EIGHT_BITS
    return frozenset({_WORDS[word]}) if word in _WORDS else frozenset()


def unnamed_scaling(framework: str) -> str:
    """Return the format of a row that prints FP8 alone, by its framework; ``FP8`` if that leaves it open."""
    if framework not in _SCALINGS:
        return "FP8"
    precision, _ = _SCALINGS[framework]
    return precision.upper()


def _of_parentheses(row: PublishedRow) -> tuple[Precision, tuple[str, ...]]:
    precision = Precision.FP8_CS
    if row.variant == _INSIDE:
        precision = Precision.FP8_SC if row.system == "h100" else Precision.MXFP8
    return precision, (f"precision {precision}, by the page's remark on parentheses and the page of 25.11",)
