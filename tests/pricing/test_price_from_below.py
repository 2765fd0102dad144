"""Price of a plan whose memory is not all counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.pricing.price import Price, price_plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.terminal.plans import render_dry_run, render_price
from pytest_nemoperf.results.dry_run import DryRun, PricedCase
from tests.builders import make_recipe

GB300 = find_system("gb300")


def price_of(layout: Layout, **changes: Any) -> Price:
    values = {"model": "deepseek-v4-flash", "seq_len": 4096, "global_batch_size": 2048, "precision": "bf16", **changes}
    recipe = make_recipe(layouts={"gb300": layout}, **values)
    return price_plan(resolve(recipe, system=GB300), system=GB300, baseline=None)


def test_a_plan_counted_from_below_is_not_said_to_fit() -> None:
    price = price_of(Layout(gpus=128, ep=64, dp_shard=128))

    assert price.capacity_bytes is not None
    assert price.peak_bytes < price.capacity_bytes
    assert price.is_fitting is None
    assert price.uncounted.startswith(
        "activations of compressed attention and hyper-connections are counted from below"
    )


def test_a_plan_counted_from_below_that_is_too_large_does_not_fit() -> None:
    price = price_of(Layout(gpus=16, dp_shard=16))

    assert price.is_fitting is False


def test_a_plan_of_which_all_is_counted_says_so() -> None:
    price = price_of(Layout(gpus=128, ep=64, dp_shard=128), model="deepseek-v3")

    assert price.uncounted == ""
    assert price.is_fitting is not None


def test_a_range_that_is_counted_from_below_is_not_said_to_fit() -> None:
    layout = Layout(gpus=128, ep=64, dp_replicate=128, shard_optimizer=True)
    system = replace(GB300, memory_gb=1000.0)
    prices = []
    for model in ("deepseek-v4-flash", "deepseek-v3"):
        recipe = make_recipe(
            model=model,
            layouts={"gb300": layout},
            seq_len=4096,
            global_batch_size=2048,
            precision="bf16",
            framework="megatron_bridge",
            unstated=("recompute",),
        )
        prices.append(price_plan(resolve(recipe, system=system), system=system, baseline=None))
    below, counted = prices

    text = render_price(below, system_title="DGX-GB300")

    assert (below.is_fitting, counted.is_fitting) == (None, True)
    assert "but for what is not counted, all of it fits into the 931 GiB (1000 GB) of one GPU" in text


def test_a_dry_run_tells_once_what_is_not_counted() -> None:
    price = price_of(Layout(gpus=128, ep=64, dp_shard=128))
    cases = (PricedCase(nodeid="test_a.py::a", price=price), PricedCase(nodeid="test_a.py::b", price=price))

    text = render_dry_run(DryRun(system="gb300", system_title="DGX-GB300", cases=cases), written=[])

    assert text.count("fits ?: activations of compressed attention and hyper-connections are counted") == 1


def test_what_is_not_counted_is_told_below_the_memory() -> None:
    text = render_price(price_of(Layout(gpus=128, ep=64, dp_shard=128)), system_title="DGX-GB300")

    assert "of one GPU (" in text
    assert "at least; not counted:\n  activations of compressed attention and hyper-connections" in text
    assert "what their kernels keep" in " ".join(text.split())
    assert max(map(len, text.splitlines()[1:])) <= 80
