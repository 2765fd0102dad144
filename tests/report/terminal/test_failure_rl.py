from __future__ import annotations

from pytest_nemoperf.records.step import GroupStep
from tests.report.blocks import lines_of, section, table
from tests.report.builders import make_regressed, make_rl_report


def test_phases_of_reinforcement_learning_are_beside_the_baselines() -> None:
    lines = lines_of(make_rl_report(baseline_changes={}, step_time_sec=0.2))

    rows = table(section(lines, heading="where the step's time went"), key="phase")
    assert lines[0].startswith("REGRESSED grpo-llama-tiny-")
    assert (rows["generation"]["difference"], rows["generation"]["share of the loss"]) == ("+50.00", "50%")
    assert (rows["step"]["difference"], rows["step"]["share of the loss"]) == ("+100.00", "100%")


def test_ranks_that_only_generate_have_phases_of_their_own() -> None:
    def groups(*, idle: float) -> dict[str, GroupStep]:
        return {"generation": GroupStep(step_time_sec=0.1, phases={"generation": 0.1 - idle, "idle": idle})}

    report = make_rl_report(baseline_changes={"groups": groups(idle=0.01)}, groups=groups(idle=0.06), step_time_sec=0.2)

    lines = section(lines_of(report), heading="where the time of the generation ranks went")

    rows = table(lines, key="phase")
    assert {name: row["difference"] for name, row in rows.items()} == {
        "idle": "+50.00",
        "generation": "-50.00",
        "step": "+0.00",
    }


def test_figures_of_reinforcement_learning_are_shown_beside_the_baselines() -> None:
    report = make_rl_report(
        baseline_changes={"rollout": {"imbalance_pct": 1.5, "kl": None}},
        step_time_sec=0.2,
        rollout={"generation_time_sec": 0.1, "reward_mean": 0.5},
    )

    lines = lines_of(report)

    judged = table(lines, key="metric", column="verdict")
    rows = table(section(lines, heading="generation and training (shown"), key="figure")
    deltas = {name: row["delta"] for name, row in (*judged.items(), *rows.items())}
    assert deltas["generation"] == "-50.0%"
    assert deltas["mean response length (tokens)"] == "0.0%"
    assert deltas["generation imbalance (%)"] == "+2.5 points"
    assert deltas["truncated share (%)"] == "0.0 points"
    assert deltas["staleness (steps)"] == "0.0%"
    assert deltas["mean reward"] == "+100.0%"
    kl = rows["KL from the reference"]
    assert (kl["baseline"], kl["now"], kl["delta"]) == ("-", "0.002", "-")
    assert judged["generation"]["now"] == "1,600"
    assert "generation" not in rows


def test_a_workload_that_left_its_band_shows_its_figures_and_no_phases() -> None:
    report = make_rl_report(
        rl={"response_lengths": "sampled"}, baseline_changes={"rollout": {"num_response_tokens": 80}}
    )

    lines = lines_of(report)

    assert lines[0].startswith("NOT COMPARABLE grpo-")
    assert "mean response length is 24 tokens, 10 tokens in the baseline (+140.0%, allowed 5.0%)" in lines
    assert not any(line.startswith("where the step's time went") for line in lines)
    rows = table(section(lines, heading="generation and training"), key="figure")
    assert rows["mean response length (tokens)"]["delta"] == "+140.0%"


def test_a_change_from_nothing_has_no_percentage() -> None:
    report = make_rl_report(baseline_changes={"rollout": {"kl": 0.0}}, step_time_sec=0.2)

    rows = table(section(lines_of(report), heading="generation and training (shown"), key="figure")

    assert rows["KL from the reference"]["delta"] == "-"


def test_pre_training_has_no_figures_of_reinforcement_learning() -> None:
    assert not any(line.startswith("generation and training") for line in lines_of(make_regressed()))


def test_a_cause_is_named_first_and_marked_once() -> None:
    lines = lines_of(make_rl_report(baseline_changes={}, rollout={"generation_time_sec": 0.1}, step_time_sec=0.2))

    rows = table(lines, key="metric", column="verdict")
    assert lines[1].startswith("generation and training are the cause: 3,200 -> 1,600 tokens/sec/GPU of generation")
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "tokens/sec/GPU": "REGRESSED",
        "generation": "its cause",
        "training": "its cause",
        "peak memory": "PASSED",
    }
