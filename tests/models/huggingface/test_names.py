from __future__ import annotations

import json
from importlib import resources

from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.huggingface.names import hub_models


def test_a_checkpoint_has_the_architecture_of_its_family() -> None:
    assert hub_models()["Qwen/Qwen3-8B-Base"] is find_model("qwen3-8b")


def test_what_a_checkpoint_has_of_its_own_is_changed() -> None:
    model = hub_models()["Qwen/Qwen2.5-Math-1.5B-Instruct"]

    assert model.name == "qwen2.5-math-1.5b-instruct"
    assert model.rope_theta != find_model("qwen2.5-1.5b").rope_theta
    assert model.hidden_size == find_model("qwen2.5-1.5b").hidden_size


def test_each_name_has_its_source() -> None:
    text = resources.files("pytest_nemoperf").joinpath("catalog", "huggingface.json").read_text(encoding="utf-8")
    entries = json.loads(text)["models"]

    assert list(entries) == sorted(entries)
    for name, entry in entries.items():
        assert name.count("/") == 1, name
        assert entry["source"].strip(), name
