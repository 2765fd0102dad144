from __future__ import annotations

import pytest

from tests.selection import SelectionByName

MARKED = """
import pytest

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.vllm
def test_vllm(): pass

@pytest.mark.ranks
def test_ranks(): pass

def test_plain(): pass
"""
INI = "[pytest]\nmarkers =\n  slow: s\n  vllm: v\n  ranks: r\n"


@pytest.mark.parametrize(
    ("args", "names"),
    [
        pytest.param((), ["ranks", "plain"], id="nothing asked for"),
        pytest.param(("-m", "not ranks"), ["plain"], id="not ranks"),
        pytest.param(("-m", "slow"), ["slow"], id="slow"),
        pytest.param(("-m", "slow or ranks"), ["slow", "ranks"], id="slow or ranks"),
        pytest.param(("-m", "not slow"), ["ranks", "plain"], id="not slow"),
    ],
)
def test_a_test_with_some_marks_runs_only_if_the_mark_is_named(
    pytester: pytest.Pytester, args: tuple[str, ...], names: list[str]
) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(test_marked=MARKED)

    result = pytester.runpytest_inprocess(*args, "-v", plugins=[SelectionByName()])

    result.assert_outcomes(passed=len(names), deselected=4 - len(names))
    result.stdout.fnmatch_lines([f"*::test_{name} PASSED*" for name in names])


def test_the_tests_left_out_are_counted_by_mark(pytester: pytest.Pytester) -> None:
    pytester.makeini(INI)
    pytester.makepyfile(test_marked=MARKED)

    result = pytester.runpytest_inprocess("-m", "not ranks", plugins=[SelectionByName()])

    result.stdout.fnmatch_lines(["left out unless -m names the mark: 1 slow, 1 vllm"])
