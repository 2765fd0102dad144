"""A few mutated files for each reader; `make fuzz` gives each a hundred thousand."""

from __future__ import annotations

from random import Random

import pytest

from tests.fuzz.campaign import content_of, opened, try_input
from tests.fuzz.mutate import JSON, mutated_json, mutated_text
from tests.fuzz.targets import TARGETS

NUM_INPUTS = 12


@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_file_is_read_or_refused_in_words_and_printed_without_escapes(name: str) -> None:
    faults = []
    with opened(name) as target:
        for number in range(NUM_INPUTS):
            fault, _ = try_input(target, name=name, number=number, has_limit=False)
            if fault is not None:
                faults.append(fault)

    assert not faults


@pytest.mark.parametrize("name", TARGETS)
def test_a_real_file_is_read_so_that_its_mutations_get_as_far(name: str) -> None:
    with opened(name) as target:
        printed = target.run_all(target.seeds[0])
        value = target.read()
        for check in target.checks:
            check(value)

    assert "nemoperf: error" not in printed


def test_the_same_number_gives_the_same_input_and_others_give_others() -> None:
    with opened("baseline") as target:
        inputs = [content_of(target, name="baseline", number=number) for number in (0, 0, 1, 2, 3)]

    assert inputs[0] == inputs[1]
    assert len(set(inputs)) > 2


def test_mutations_differ_from_the_file_they_are_of() -> None:
    random = Random(0)  # noqa: S311 (the same inputs every time)
    tree = b'{"a": [1, "b", null], "c": {"d": 2.5}}'
    text = b"step 1: loss 2\nstep 2: loss 3\n"

    assert len({mutated_json(tree, random=random) for _ in range(50)}) > 30
    assert len({mutated_text(text, random=random, hostile=JSON) for _ in range(50)}) > 30
