"""``nemoperf flops``: model FLOPs per trained token."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from pytest_nemoperf.cli.terminal import write
from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION, find_convention, flops_conventions
from pytest_nemoperf.flops.count import flops_terms
from pytest_nemoperf.models.catalog import find_model


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("model", metavar="MODEL", help="catalog name, e.g. llama3-8b, or path of a config.json")
    parser.add_argument("--seq-len", required=True, metavar="N,...", help="tokens per sequence; one answer for each")
    parser.add_argument("--terms", action="store_true", help="also each term of the sum")
    names = ", ".join(flops_conventions())
    parser.add_argument(
        "--convention", metavar="NAME", help=f"how FLOPs are counted: {names} (default: {DEFAULT_CONVENTION})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print FLOPs per token for each length; return the exit code.

    Raises:
        RecipeError: If model, convention or a length is unknown.
    """
    model = find_model(arguments.model)
    convention = find_convention(arguments.convention or DEFAULT_CONVENTION)
    answers = []
    for seq_len in _parse_seq_lens(arguments.seq_len):
        terms = flops_terms(model, seq_len=seq_len, convention=convention)
        answer: dict[str, Any] = {
            "model": model.name,
            "seq_len": seq_len,
            "convention": convention.name,
            "flops_per_token": sum(terms.values()),
        }
        if arguments.terms:
            answer["terms"] = dict(terms)
        answers.append(answer)
    if not arguments.json:
        for answer in answers:
            write(_flops_text(answer))
    elif len(answers) == 1:
        write(f"{json.dumps(answers[0], indent=2)}\n")
    else:
        write(f"{json.dumps(answers, indent=2)}\n")
    return 0


def _parse_seq_lens(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise RecipeError(f"--seq-len: {text!r} is not a number or a list of them; write e.g. 4096,8192") from None


def _flops_text(answer: Mapping[str, Any]) -> str:
    total = answer["flops_per_token"]
    terms: Mapping[str, float] = answer.get("terms", {})
    text = f"{answer['model']} at seq_len {answer['seq_len']}: {total:.6g} FLOPs per token ({answer['convention']})\n"
    width = max(map(len, terms), default=0)
    for name, term in terms.items():
        text += f"  {name:<{width}}  {term:<12.6g} {term / total:6.1%}\n"
    return text
