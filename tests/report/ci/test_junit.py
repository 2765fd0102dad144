from __future__ import annotations

from pytest_nemoperf.baselines.baseline import Anchor
from pytest_nemoperf.report.ci.junit import properties
from tests.builders import make_baseline, make_measurement, make_provenance, make_run
from tests.report.builders import make_call, make_invalid, make_regressed, make_report, make_rl_report


def test_properties_carry_verdict_and_every_judged_metric() -> None:
    found = dict(properties(make_regressed()))

    assert found["nemoperf_verdict"] == "REGRESSED"
    assert found["nemoperf_case"] == "pretrain-test"
    assert found["nemoperf_system"] == "cpu"
    assert found["nemoperf_baseline"] == "baselines/cpu/pretrain-test.json"
    assert found["nemoperf_flops_convention"] == "megatron-bridge"
    assert found["nemoperf_tokens_per_sec_per_gpu_now"] == "833.333"
    assert found["nemoperf_tokens_per_sec_per_gpu_baseline"] == "1000"
    assert found["nemoperf_tokens_per_sec_per_gpu_delta_pct"] == "-16.67"
    assert found["nemoperf_tokens_per_sec_per_gpu_allowed_pct"] == "10"
    assert found["nemoperf_tokens_per_sec_per_gpu_verdict"] == "REGRESSED"
    assert found["nemoperf_peak_memory_gib_verdict"] == "PASSED"
    assert (found["nemoperf_num_runs"], found["nemoperf_num_baseline_runs"]) == ("3", "3")
    low, high = (float(found[f"nemoperf_tokens_per_sec_per_gpu_{end}_pct"]) for end in ("low", "high"))
    assert low < -16.67 < high < 0
    assert 0 < float(found["nemoperf_tokens_per_sec_per_gpu_noise_pct"]) < 1
    assert 10 < float(found["nemoperf_tokens_per_sec_per_gpu_finds_pct"]) < 15


def test_without_a_baseline_there_is_only_now() -> None:
    names = [name for name, _ in properties(make_report())]

    assert "nemoperf_tokens_per_sec_per_gpu_now" in names
    assert not any(name.endswith(("_baseline", "_delta_pct", "_allowed_pct")) for name in names)


def test_a_call_has_its_time() -> None:
    assert dict(properties(make_call(seconds=123e-6)))["nemoperf_time_per_call_sec_now"] == "0.000123"


def test_an_invalid_case_has_a_reason_and_no_figure() -> None:
    found = dict(properties(make_invalid()))

    assert found["nemoperf_reason"] == "run 1: loss is not finite at step 4 (9 of 13 steps)"
    assert not any(name.endswith("_now") for name in found)


def test_names_are_unique_and_values_are_not_empty() -> None:
    pairs = properties(make_regressed())

    assert len({name for name, _ in pairs}) == len(pairs)
    assert all(value for _, value in pairs)


def test_figures_of_reinforcement_learning_are_properties_without_a_verdict() -> None:
    pairs = dict(properties(make_rl_report(baseline_changes={"rollout": {"reward_mean": 0.1}})))

    assert pairs["nemoperf_mean_response_len_now"] == "24"
    assert (pairs["nemoperf_reward_mean_now"], pairs["nemoperf_reward_mean_baseline"]) == ("0.25", "0.1")
    assert "nemoperf_reward_mean_verdict" not in pairs


def test_figures_that_do_not_compare_have_no_baseline() -> None:
    report = make_rl_report(
        rl={"response_lengths": "sampled"}, baseline_changes={"rollout": {"num_response_tokens": 80}}
    )

    pairs = dict(properties(report))

    assert pairs["nemoperf_mean_response_len_now"] == "24"
    assert "nemoperf_mean_response_len_baseline" not in pairs


def test_an_anchor_has_figures_of_its_own() -> None:
    anchor = Anchor(name="1.0", runs=(make_run(1050.0),) * 3, provenance=make_provenance())

    found = dict(properties(make_report(make_measurement(), baseline=make_baseline(anchor=anchor))))

    assert found["nemoperf_anchor"] == "1.0"
    assert found["nemoperf_tokens_per_sec_per_gpu_delta_pct"] == "0.00"
    assert found["nemoperf_tokens_per_sec_per_gpu_anchor_delta_pct"] == "-4.76"
