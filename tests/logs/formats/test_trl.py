from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.records.step import RolloutStats, StepRecord
from tests.logs.event_writer import write_events

GRPO = LogContext(num_gpus=1, tokens_per_step=2560, seq_len=80, has_exact_tokens=False, is_rl=True, num_samples=32)
SFT = LogContext(num_gpus=1, tokens_per_step=1024, seq_len=128, has_exact_tokens=False)

NUM_TOKENS = (2460, 5008, 7405, 9833, 12393, 14766)
MEAN_LENGTHS = (60.875, 63.625, 58.90625, 59.875, 64.0, 58.15625)
SECONDS = (0.76, 0.8192, 0.6524, 0.589, 0.5497, 0.5922)
"""Six steps of a real run with 32 responses a step, and prompts of 16 tokens."""


def logs(*, num_tokens: Sequence[int] = NUM_TOKENS, lengths: Sequence[float] = MEAN_LENGTHS) -> list[dict[str, float]]:
    """Return what the trainer logs at each step."""
    rows = []
    for seconds, total, mean in zip(SECONDS, num_tokens, lengths, strict=False):
        rows.append(
            {
                "loss": -0.07646,
                "grad_norm": 0.6222,
                "num_tokens": float(total),
                "completions/mean_length": mean,
                "completions/clipped_ratio": 0.875,
                "reward": 57.0625,
                "reward_std": 8.125,
                "step_time": seconds,
                "epoch": 0.03125,
            }
        )
    return rows


def printed(row: dict[str, float]) -> str:
    """Return the line that transformers prints of a row: numbers as texts of four digits."""
    return str({name: f"{value:.4g}" for name, value in row.items()})


def write_console(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("\n".join(("Loading weights: 100%", *lines, "{'train_runtime': '4.018', 'train_loss': '-0.07'}\n")))
    return path


def event_steps(rows: Sequence[dict[str, float]]) -> list[tuple[int, float, dict[str, float]]]:
    return [(at, 0.7 * at, {f"train/{tag}": value for tag, value in row.items()}) for at, row in enumerate(rows, 1)]


def rollouts_of(records: Sequence[StepRecord]) -> list[RolloutStats]:
    return [record.rollout for record in records if record.rollout is not None]


def test_event_files_tell_every_token_and_the_whole_step(tmp_path: Path) -> None:
    write_events(tmp_path, event_steps(logs()))

    records = read_log([tmp_path], log_format="trl", context=GRPO).records

    assert [record.tokens for record in records] == [2460, 2548, 2397, 2428, 2560, 2373]
    assert [rollout.num_response_tokens for rollout in rollouts_of(records)] == [1948, 2036, 1885, 1916, 2048, 1861]
    assert [record.step_time_sec for record in records] == pytest.approx([0.7] * 6)
    first = rollouts_of(records)[0]
    assert (first.num_samples, first.num_truncated, first.reward_mean, first.reward_std) == (32, 28, 57.0625, 8.125)
    assert (first.num_prompt_tokens, first.generation_time_sec, first.kl) == (None, None, None)


def test_the_console_tells_the_trainers_own_time_and_every_response(tmp_path: Path) -> None:
    path = write_console(tmp_path / "log", [printed(row) for row in logs()])

    records = read_log([path], log_format="trl_console", context=GRPO).records

    assert [record.step_time_sec for record in records] == list(SECONDS)
    assert [rollout.num_response_tokens for rollout in rollouts_of(records)] == [1948, 2036, 1885, 1916, 2048, 1861]
    for record, tokens in zip(records, (2460, 2548, 2397, 2428, 2560, 2373), strict=True):
        assert record.tokens == pytest.approx(tokens, abs=1)


def test_totals_with_few_digits_are_exact_on_the_console(tmp_path: Path) -> None:
    path = write_console(tmp_path / "log", [printed(row) for row in logs()[:3]])

    records = read_log([path], log_format="trl_console", context=GRPO).records

    assert [record.tokens for record in records] == [2460, 2548, 2397]


def test_one_step_on_the_console_has_all_tokens_so_far(tmp_path: Path) -> None:
    path = write_console(tmp_path / "log", [printed(logs()[0])])

    (record,) = read_log([path], log_format="trl_console", context=GRPO).records

    assert record.tokens == 2460


@given(
    lengths=st.lists(st.integers(200_000, 500_000), min_size=5, max_size=20),
    num_prompt_tokens=st.integers(1, 50_000),
    earlier=st.integers(0, 10**7),
)
def test_rounded_totals_hardly_matter(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], num_prompt_tokens: int, earlier: int
) -> None:
    """Four digits of a mean are off by 0.05% at most, and four of a total by 0.05% of it over all steps."""
    num_samples = 512
    lines, total = [], earlier
    for length in lengths:
        total += length + num_prompt_tokens
        row = logs()[0] | {"num_tokens": total, "completions/mean_length": length / num_samples}
        lines.append(printed(row))
    path = write_console(tmp_path_factory.mktemp("console") / "log", lines)
    context = LogContext(
        num_gpus=1, tokens_per_step=10**6, seq_len=2000, has_exact_tokens=False, is_rl=True, num_samples=num_samples
    )

    records = read_log([path], log_format="trl_console", context=context).records

    rounding = 0.0005 * total / len(lengths) * 2.5
    for record, length in zip(records, lengths, strict=True):
        assert rollouts_of([record])[0].num_response_tokens == pytest.approx(length, rel=0.00051)
        assert record.tokens == pytest.approx(length + num_prompt_tokens, abs=0.001 * length + rounding + 1)


def test_steps_that_use_responses_again_are_told(tmp_path: Path) -> None:
    rows = logs()
    for again in rows[1::2]:
        for name in ("num_tokens", "completions/mean_length", "completions/clipped_ratio"):
            del again[name]
    write_events(tmp_path, event_steps(rows))

    with pytest.raises(RecordError, match=r"step 2 generated nothing, and others did: .* num_iterations be 1"):
        read_log([tmp_path], log_format="trl", context=GRPO)


def test_supervised_fine_tuning_has_tokens_and_no_responses(tmp_path: Path) -> None:
    tokens: list[dict[str, float]] = [{"loss": 6.27, "num_tokens": total} for total in (778.0, 1536.0, 2248.0)]
    write_events(tmp_path, event_steps(tokens))

    records = read_log([tmp_path], log_format="trl", context=SFT).records

    assert [record.tokens for record in records] == [778, 758, 712]
    assert rollouts_of(records) == []


def test_a_console_without_times_says_which_format_has_them(tmp_path: Path) -> None:
    lines = [printed({"loss": 6.27, "num_tokens": 778.0}), printed({"loss": 6.2, "num_tokens": 1536.0})]
    path = write_console(tmp_path / "log", lines)

    with pytest.raises(RecordError, match=r"no step_time among what is printed: .* use log_format='trl'"):
        read_log([path], log_format="trl_console", context=SFT)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda line: line[:80] + "\n" + line, "log:3: a torn line", id="torn"),
        pytest.param(lambda line: line.replace("'0.8192'", "'fast'"), "step_time='fast' is no number", id="word"),
        pytest.param(lambda line: line.replace("'0.8192'", "'nan'"), "must be positive and finite", id="nan"),
    ],
)
def test_a_damaged_console_is_told(tmp_path: Path, damage: Any, message: str) -> None:
    lines = [printed(row) for row in logs()]
    lines[1] = damage(lines[1])
    path = write_console(tmp_path / "log", lines)

    with pytest.raises(RecordError, match=message):
        read_log([path], log_format="trl_console", context=GRPO)


def long_rows(*, growth: int, mean_length: float = 1024.0) -> list[dict[str, float]]:
    """Return four steps whose tokens so far grow by as many a step, with 32 responses each."""
    rows = []
    for step in range(1, 5):
        rows.append(logs()[0] | {"num_tokens": float(growth * step), "completions/mean_length": mean_length})
    return rows


def test_fewer_tokens_than_responses_are_told_with_the_arithmetic(tmp_path: Path) -> None:
    path = write_console(tmp_path / "log", [printed(row) for row in long_rows(growth=30_000)])

    with pytest.raises(
        RecordError,
        match=r"log:5: step 3: num_tokens, which counts prompts and responses, grows by 90,000 in 3 steps = 30,000 a "
        r"step, and the responses alone are 32,768 a step \(completions/mean_length x 32 responses\); let the recipe's",
    ):
        read_log([path], log_format="trl_console", context=GRPO)


def test_tokens_that_only_rounding_makes_too_few_are_taken(tmp_path: Path) -> None:
    path = write_console(tmp_path / "log", [printed(row) for row in long_rows(growth=32_752)])

    records = read_log([path], log_format="trl_console", context=GRPO).records

    assert [record.tokens for record in records] == [32_768] * 4


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_line_without_its_tokens_is_told(tmp_path: Path, at: int) -> None:
    rows = long_rows(growth=33_000)
    del rows[at]["num_tokens"]
    path = write_console(tmp_path / "log", [printed(row) for row in rows])

    with pytest.raises(RecordError, match=rf"log:{at + 2}: step {at}: no num_tokens, though other steps have it"):
        read_log([path], log_format="trl_console", context=GRPO)


@pytest.mark.parametrize("name", ["num_tokens", "completions/mean_length", "completions/clipped_ratio"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_counts_that_are_not_finite_are_told(tmp_path: Path, name: str, value: float) -> None:
    rows = long_rows(growth=33_000)
    rows[2][name] = value
    path = write_console(tmp_path / "log", [printed(row) for row in rows])

    with pytest.raises(RecordError, match=rf"log:4: step 2: {name}={value:g} must be finite"):
        read_log([path], log_format="trl_console", context=GRPO)
