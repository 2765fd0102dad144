from __future__ import annotations

from pytest_nemoperf.records import GroupStep
from tests.report.blocks import lines_of, section
from tests.report.builders import make_regressed, make_rl_report


def test_phases_of_reinforcement_learning_are_beside_the_baselines() -> None:
    lines = lines_of(make_rl_report(baseline_changes={}, step_time_sec=0.2))

    rows = [line.split() for line in section(lines, heading="where the step's time went")]
    assert lines[0].startswith("REGRESSED grpo-llama-tiny-")
    assert rows[1] == ["generation", "50.00", "100.00", "+50.00", "50%"]
    assert rows[-1] == ["step", "100.00", "200.00", "+100.00", "100%"]


def test_ranks_that_only_generate_have_phases_of_their_own() -> None:
    then, now = (
        {"generation": GroupStep(step_time_sec=0.1, phases={"generation": 0.1 - idle, "idle": idle})}
        for idle in (0.01, 0.06)
    )
    report = make_rl_report(baseline_changes={"groups": then}, groups=now, step_time_sec=0.2)

    rows = [line.split() for line in section(lines_of(report), heading="where the time of the generation ranks went")]

    assert rows[1:] == [
        ["idle", "10.00", "60.00", "+50.00"],
        ["generation", "90.00", "40.00", "-50.00"],
        ["step", "100.00", "100.00", "+0.00"],
    ]


def test_figures_of_reinforcement_learning_are_shown_beside_the_baselines() -> None:
    report = make_rl_report(
        baseline_changes={"rollout": {"imbalance_pct": 1.5, "kl": None}},
        step_time_sec=0.2,
        rollout={"generation_time_sec": 0.1, "reward_mean": 0.5},
    )

    rows = [" ".join(line.split()) for line in section(lines_of(report), heading="generation and training")]

    assert rows[0] == "figure baseline now delta"
    assert "generation 3,200 tokens/sec/GPU 1,600 tokens/sec/GPU -50.0%" in rows
    assert "mean response length 24 tokens 24 tokens 0.0%" in rows
    assert "generation imbalance 1.5 % 4 % +2.5 points" in rows
    assert "truncated share 0 % 0 % 0.0 points" in rows
    assert "staleness 0 steps 0 steps 0.0%" in rows
    assert "mean reward 0.25 0.5 +100.0%" in rows
    assert "KL from the reference - 0.002 -" in rows


def test_a_workload_that_left_its_band_shows_its_figures_and_no_phases() -> None:
    report = make_rl_report(
        rl={"response_lengths": "sampled"}, baseline_changes={"rollout": {"num_response_tokens": 80}}
    )

    lines = lines_of(report)

    assert lines[0].startswith("NOT COMPARABLE grpo-")
    assert lines[1] == "mean response length is 24 tokens, 10 tokens in the baseline (+140.0%, allowed 5.0%)"
    assert not any(line.startswith("where the step's time went") for line in lines)
    rows = [" ".join(line.split()) for line in section(lines, heading="generation and training")]
    assert "mean response length 10 tokens 24 tokens +140.0%" in rows


def test_pre_training_has_no_figures_of_reinforcement_learning() -> None:
    assert not any(line.startswith("generation and training") for line in lines_of(make_regressed()))
