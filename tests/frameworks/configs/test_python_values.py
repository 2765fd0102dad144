from __future__ import annotations

import ast
from typing import Any

import pytest

from pytest_nemoperf.frameworks.configs.python_values import (
    UNKNOWN,
    Method,
    Opaque,
    attribute_of,
    call_method,
    call_on_attributes,
    copied,
    evaluate_operation,
    is_known,
)


def test_an_attribute_is_what_was_set_then_the_class_s_then_an_object_of_its_own() -> None:
    thing = Opaque(made_by="Thing", values={"a": 1}, defaults={"a": 2, "b": 3})

    assert [attribute_of(thing, name) for name in ("a", "b")] == [1, 3]
    inner = attribute_of(thing, "c")
    assert (inner.made_by, inner.owner, inner.is_read) == ("c", thing, True)
    assert thing.get("c", "default") == "default"
    inner.values["d"] = 4
    assert thing.get("c") is inner
    assert attribute_of(thing, "c") is inner


def test_only_methods_that_change_nothing_elsewhere_are_known() -> None:
    assert isinstance(attribute_of("text", "upper"), Method)
    assert isinstance(attribute_of({}, "get"), Method)
    assert attribute_of("text", "encode") is UNKNOWN
    assert attribute_of(3, "real") is UNKNOWN
    assert attribute_of("text", "__class__") is UNKNOWN


def test_a_method_of_a_text_with_an_unknown_argument_is_unknown() -> None:
    assert call_method(Method(owner="a{}", name="format"), args=(UNKNOWN,), kwargs={}) is UNKNOWN
    assert call_method(Method(owner="a{}", name="format"), args=(1,), kwargs={}) == "a1"


@pytest.mark.parametrize(
    ("name", "args", "value"),
    [
        pytest.param("getattr", ("a",), 1, id="set"),
        pytest.param("getattr", ("z",), UNKNOWN, id="not set"),
        pytest.param("getattr", ("z", 5), 5, id="a default"),
        pytest.param("getattr", (UNKNOWN, 5), UNKNOWN, id="an unknown name"),
        pytest.param("hasattr", ("a",), True, id="has"),
        pytest.param("hasattr", ("z",), UNKNOWN, id="may have"),
        pytest.param("isinstance", (str,), False, id="no text"),
        pytest.param("isinstance", (UNKNOWN,), UNKNOWN, id="an unknown type"),
    ],
)
def test_functions_on_attributes_answer_what_is_known(name: str, args: tuple[Any, ...], value: Any) -> None:
    thing = Opaque(made_by="Thing", values={"a": 1})

    assert call_on_attributes(name, (thing, *args)) == value


def test_a_copy_shares_nothing() -> None:
    thing = Opaque(made_by="Thing", values={"a": [{"b": 1}]})
    attribute_of(thing, "c").values["d"] = 1

    other = copied(thing)
    other.values["a"][0]["b"] = 2
    other.get("c").values["d"] = 2

    assert thing.values["a"] == [{"b": 1}]
    assert thing.get("c").get("d") == 1


def test_an_operation_that_is_not_followed_is_unknown() -> None:
    node = ast.parse("[x for x in y]", mode="eval").body

    assert evaluate_operation(node, lambda _node: 1) is UNKNOWN
    assert not is_known(UNKNOWN)
    assert repr(UNKNOWN) == "unknown"
