from __future__ import annotations

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.expected import Expected
from pytest_nemoperf.workloads import loop_workload

EXPECTED = Expected(num_gpus=2, warmup_steps=2, steps=4, tokens_per_step=100)


def test_the_workload_of_a_loop_is_what_is_known_and_what_its_test_adds() -> None:
    workload = loop_workload("x", expected=EXPECTED, added={"shape": (32, 128)})

    assert workload == {
        "workload": "loop",
        "name": "x",
        "num_gpus": 2,
        "tokens_per_step": 100,
        "shape": [32, 128],
    }


@pytest.mark.parametrize("key", ["workload", "name", "num_gpus", "tokens_per_step", "rl"])
def test_a_key_of_the_plugins_own_is_refused(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"workload\['{key}'\]='mine': the plugin itself sets or reads this key"):
        loop_workload("x", expected=EXPECTED, added={key: "mine"})
