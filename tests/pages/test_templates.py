from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from pytest_nemoperf.errors import PageError
from pytest_nemoperf.pages.blocks import fill_page
from pytest_nemoperf.pages.markers import Block, parse_page
from pytest_nemoperf.pages.sources import PageRows, read_page_rows
from pytest_nemoperf.pages.templates import TEMPLATES, template_text
from tests.pages.rendering import Rendered, rendered

PRETRAIN = (
    "Model | #-GPUs | GBS | MBS | Sequence Length | FSDP | TP | PP | CP | VP | EP | GA | Tokens / sec / GPU | "
    "Model TFLOP / sec / GPU"
)
RL = (
    "Model | Training Backend | T-Max Sequence Length | G-Average Seq len | #-GPUs | G-GBS | T-GBS | G-TP | G-PP | "
    "G-DP | T-TP | T-CP | T-EP | T-PP | T-VPP | T-DP | Tokens / sec / GPU | Total Step time(s)"
)
COLUMNS = {"dfm": PRETRAIN, "nemo-rl": RL}
"""Columns of the pages that the templates stand for."""
PARTS = ("Performance", "Nomenclature", "Performance Metrics", "Performance Summary for Large Language Models")


@cache
def published_only() -> PageRows:
    return read_page_rows(Path("no such folder"), results=(), has_baselines=True)


@cache
def page_of(template: str) -> str:
    page = parse_page(template_text(template), subject=template)
    return fill_page(page, rows=published_only(), subject=template).text


@cache
def seen(template: str) -> Rendered:
    return rendered(page_of(template))


@pytest.fixture(params=TEMPLATES)
def template(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_template_is_a_page_with_empty_blocks(template: str) -> None:
    blocks = parse_page(template_text(template), subject=template).blocks

    assert {block.content for block in blocks} == {""}


def test_a_page_has_the_parts_of_the_page_it_stands_for_in_their_order(template: str) -> None:
    titles = [title for _, title in seen(template).headings]

    assert titles[: len(PARTS)] == list(PARTS)
    assert page_of(template).index("## Performance Metrics") < page_of(template).index("```{contents}")


def test_every_table_has_exactly_the_columns_of_the_page(template: str) -> None:
    heads = {" | ".join(table[0]) for table in seen(template).tables}

    assert heads == {COLUMNS[template]}


def test_every_row_has_as_many_cells_as_its_head(template: str) -> None:
    assert all(len(row) == len(table[0]) for table in seen(template).tables for row in table)


def test_every_line_of_a_table_is_read_as_one(template: str) -> None:
    lines = sum(line.startswith("|") for line in page_of(template).splitlines())

    tables = seen(template).tables
    assert lines == sum(len(table) + 1 for table in tables)  # the rule is no row


def test_headings_skip_no_level(template: str) -> None:
    levels = [level for level, _ in seen(template).headings]

    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_details_are_closed_and_the_only_html(template: str) -> None:
    html = seen(template).html

    tags = [line for line in html if not line.startswith("<summary>")]
    assert set(zip(tags[::2], tags[1::2], strict=True)) == {("<details>", "</details>")}
    assert len(html) == len(tags) // 2 * 3


@pytest.mark.parametrize("word", ["[insert", "Guyue", "will add", "ene-step", "TODO"])
def test_nothing_is_left_open(template: str, word: str) -> None:
    assert word not in page_of(template)
    texts = [
        part for part in parse_page(template_text(template), subject=template).parts if not isinstance(part, Block)
    ]
    assert "?" not in "".join(texts)


@pytest.mark.parametrize(
    ("template", "systems"),
    [("dfm", ("DGX-GB200", "DGX-B200", "DGX-H100")), ("nemo-rl", ("DGX-H100", "DGX-GB200", "DGX-B200"))],
)
def test_systems_stand_in_the_order_of_the_page(template: str, systems: tuple[str, ...]) -> None:
    titles = [title for level, title in seen(template).headings if level == 4]

    first = dict.fromkeys(title.removeprefix("System: ").partition(".")[0] for title in titles)
    assert tuple(first) == systems


def test_the_page_of_rl_has_a_section_for_each_algorithm_and_release() -> None:
    titles = [title for _, title in seen("nemo-rl").headings]

    for title in (
        "GRPO Performance on-policy. Dataset: OpenMathInstruct-2",
        "GRPO Performance 1-step off. Dataset: OpenMathInstruct-2",
        "DAPO Performance on-policy. Dataset: DAPO-Math-17k",
        "PPO Performance on-policy",
        "System: DGX-B200. Precision: Training FP8, Generation FP8.",
    ):
        assert title in titles
    releases = [title for title in titles if title.startswith("NeMo RL v")]
    assert releases == ["NeMo RL v0.6", "NeMo RL v0.5", "NeMo RL v0.4"]


def test_an_unknown_template_is_an_error() -> None:
    with pytest.raises(PageError, match="nemo-rl2: no such template; did you mean nemo-rl"):
        template_text("nemo-rl2")


def test_conventions_are_counted_as_the_tables_show_them() -> None:
    page = page_of("dfm")
    metrics, _, tables = page.partition("```{contents}")

    for name in ("automodel", "megatron-bridge", "megatron-bridge-25.09"):
        counts = re.findall(rf"`{name}` \((\d+) row", metrics)
        assert counts == [str(_num_rows(tables, convention=name))]


def _num_rows(page: str, *, convention: str) -> int:
    number = 0
    for details in re.findall(r"<summary>Reproduce.*?</details>", page, flags=re.DOTALL):
        items = re.findall(r"^\d+\. .*", details, flags=re.MULTILINE)
        is_of_all = re.search(rf"^- FLOPs convention `{convention}`", details, flags=re.MULTILINE)
        number += len(items) if is_of_all else sum(f"FLOPs convention `{convention}`" in line for line in items)
    return number
