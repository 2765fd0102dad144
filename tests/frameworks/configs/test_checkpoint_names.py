from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.configs.checkpoint_names import NamedModel, named_model
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.catalog import find_model, model_catalog
from pytest_nemoperf.models.huggingface.names import hub_models


def config_of(named: NamedModel) -> ModelConfig:
    """Return the architecture of a name that is known."""
    assert not named.unread
    return find_model(named.model) if isinstance(named.model, str) else named.model


def test_a_name_of_the_hub_is_that_of_the_catalog() -> None:
    assert named_model("meta-llama/Llama-3.1-8B-Instruct", key="k") == NamedModel(model="llama3.1-8b")


def test_a_directory_with_a_config_counts_before_the_hub(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")

    assert named_model(str(tmp_path), key="k") == NamedModel(model=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("", "policy.model_name is not set", id="none"),
        pytest.param(
            "x" * 300,
            f"policy.model_name={'x' * 300} can't be looked up as a directory: File name too long",
            id="no path of this system",
        ),
        pytest.param(
            "team/own",
            "policy.model_name=team/own is neither a known architecture nor a directory with a config.json",
            id="unknown",
        ),
    ],
)
def test_a_name_that_is_not_known_has_its_reason(name: str, reason: str) -> None:
    assert named_model(name, key="policy.model_name") == NamedModel(unread=reason)


def test_multi_token_prediction_may_be_deeper_or_left_out() -> None:
    named = named_model("deepseek-ai/DeepSeek-V3", key="k")
    assert config_of(named).mtp_num_layers == 1

    assert config_of(named.with_prediction_depth(0)).mtp_num_layers == 0
    shared = config_of(named.with_prediction_depth(2, is_shared=True))
    assert (shared.mtp_num_layers, shared.is_mtp_shared) == (2, True)
    assert named.with_prediction_depth(1) is named
    assert not NamedModel(unread="?").with_prediction_depth(1).model


def test_each_name_of_the_hub_is_one_architecture() -> None:
    assert len(hub_models()) > 100
    for name in hub_models():
        config_of(named_model(name, key="k"))
    in_catalog = [name for name in hub_models() if hub_models()[name].name in model_catalog()]
    assert len(in_catalog) > 50
