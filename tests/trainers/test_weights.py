from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pytest_nemoperf.trainers.weights import drawing_device
from tests.builders import make_plan


def test_weights_are_drawn_by_the_device_of_the_plan_as_the_native_engine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)

    assert drawing_device(make_plan()) == torch.device("cpu")
    assert drawing_device(replace(make_plan(), device="cuda")) == torch.device("cuda", 1)
