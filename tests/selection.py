"""Plugin of these tests: tests with certain marks run only if ``-m`` names the mark."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

import pytest

SELECTED_BY_NAME: Final = ("slow", "vllm", "trainers", "frameworks", "elsewhere", "neighbours")


class SelectionByName:
    """Deselect tests with a mark of SELECTED_BY_NAME that the ``-m`` expression does not name."""

    def __init__(self) -> None:
        self._num_left_out: Counter[str] = Counter()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        named = set(re.findall(r"\w+", config.getoption("-m")))
        unnamed = [mark for mark in SELECTED_BY_NAME if mark not in named]
        selected, left_out = [], []
        for item in items:
            marks = [mark for mark in unnamed if item.get_closest_marker(mark)]
            if marks:
                self._num_left_out[marks[0]] += 1
                left_out.append(item)
            else:
                selected.append(item)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = selected

    def pytest_report_collectionfinish(self) -> str | None:
        counts = [f"{number} {mark}" for mark, number in self._num_left_out.items()]
        return f"left out unless -m names the mark: {', '.join(counts)}" if counts else None
