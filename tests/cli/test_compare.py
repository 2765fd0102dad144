from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines import atomic
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from tests.builders import make_plan, make_recipe
from tests.results.row_builders import make_case, store_plan, write_results

BASELINES = Path("baselines")
ONE = make_plan(variant="one")
OTHER = make_plan(variant="other")
RATE = "tokens_per_sec_per_gpu"


def plan_on(system: str, **changes: Any) -> Plan:
    layout = changes.pop("layout", Layout(gpus=2, dp_shard=2))
    return resolve(make_recipe(layouts={system: layout}, **changes), system=find_system(system))


def store(plan: Plan, rate: float, *, day: int = 1, **changes: Any) -> None:
    session = f"2026-11-{day:02d}T10:00:00Z"
    store_plan(BASELINES, plan, rate * 0.999, rate, rate * 1.001, session=session, **changes)


@pytest.fixture
def releases(nemoperf: Any) -> None:
    """Make releases 0.4 and 0.5 of two cases on an H100: the first is half as fast in 0.5, the other is gone."""
    store(plan_on("h100", variant="one"), 100.0)
    store(plan_on("h100", variant="other"), 200.0)
    nemoperf("release", "0.4")
    store(plan_on("h100", variant="one"), 50.0, day=2)
    nemoperf("release", "0.5", "--system", "h100")


def folded(text: str) -> str:
    return " ".join(text.split())


def test_two_releases_are_set_beside_each_other(nemoperf: Any, releases: None) -> None:
    code, out, err = nemoperf("compare", "release:0.4", "release:0.5")

    text = folded(out)
    assert (code, err) == (0, "")
    assert "By case: 2 of 2 rows of release:0.4, 2 of 2 rows of release:0.5." in text
    assert "100* 3, 0.2% 50 3, 0.2% 0.500 [0.4" in text
    assert "The best value of each line is marked." in text
    assert "Brackets hold the 95% interval" in text


def test_baselines_are_compared_with_a_release(nemoperf: Any, releases: None) -> None:
    code, out, _ = nemoperf("compare", "0.4", "h100")

    assert code == 0
    assert "By case: 2 of 2 rows of 0.4, 2 of 2 rows of h100." in folded(out)


def test_a_session_is_compared_with_the_baselines_of_its_cases(nemoperf: Any) -> None:
    store_plan(BASELINES, ONE, 100.0, 101.0)
    write_results(Path("out/results.json"), make_case(ONE, 50.0, 50.5), make_case(OTHER, 1.0))

    code, out, _ = nemoperf("compare", "system:cpu", "out")

    assert code == 0
    assert "By case: 1 of 1 row of system:cpu, 1 of 2 rows of out." in folded(out)
    assert "0.500 [0." in out


def test_two_systems_are_compared_recipe_by_recipe(nemoperf: Any) -> None:
    store(plan_on("h100"), 100.0)
    store(plan_on("b200"), 250.0)

    code, out, _ = nemoperf("compare", "h100", "b200")

    assert code == 0
    assert "By system: 1 of 1 row of h100, 1 of 1 row of b200." in folded(out)
    assert "2.500 [" in out


def test_two_frameworks_are_compared_recipe_by_recipe(nemoperf: Any) -> None:
    store(plan_on("h100"), 100.0)
    store(plan_on("h100", framework="megatron"), 150.0)

    code, out, _ = nemoperf("compare", "framework:torch", "framework:megatron")

    assert code == 0
    assert "By framework: 1 of 1 row of framework:torch" in folded(out)
    assert "pretrain-llama-tiny-1n2g-fp32-fsdp2" in out


def test_two_layouts_are_compared_recipe_by_recipe(nemoperf: Any) -> None:
    store(plan_on("h100"), 100.0)
    store(plan_on("h100", layout=Layout(gpus=2, tp=2)), 80.0)

    code, out, _ = nemoperf("compare", "layout:fsdp2", "layout:tp2")

    assert code == 0
    assert "By layout: 1 of 1 row of layout:fsdp2" in folded(out)
    assert "0.800 [" in out


def test_published_values_say_that_they_have_no_interval(nemoperf: Any) -> None:
    code, out, _ = nemoperf("compare", "published:gb200", "published:gb300", "--where", "model=LLAMA3_8B")

    assert code == 0
    assert "has no interval: a published value is one value, without spread." in folded(out)
    assert "LLAMA3_8B FP8-CS 8 GPUs pretrain" in out


def test_a_measured_recipe_is_beside_what_a_page_promises_of_it(nemoperf: Any) -> None:
    plan = plan_on(
        "h100",
        model="llama3-8b",
        framework="megatron",
        layout=Layout(gpus=8, dp_shard=8),
        precision="fp8_cs",
        seq_len=8192,
        global_batch_size=128,
        micro_batch_size=1,
    )
    store(plan, 10000.0)

    code, out, _ = nemoperf("compare", "published:h100", "h100", "--format", "csv")

    (promised, measured) = csv.DictReader(io.StringIO(out))
    assert code == 0
    assert (promised["value"], promised["why_no_interval"]) == ("14451.0", "")
    assert (measured["value"], measured["case"]) == ("10000.0", plan.case)
    assert measured["why_no_interval"] == "a published value is one value, without spread"


def test_tflops_of_other_conventions_are_said_not_to_compare(nemoperf: Any, releases: None) -> None:
    path = BASELINES / "releases" / "0.5.json"
    text = path.read_text(encoding="utf-8").replace('"megatron-bridge"', '"full-attention"')
    path.write_text(text, encoding="utf-8")

    _, out, _ = nemoperf("compare", "0.4", "0.5", "--metric", "tflops_per_sec_per_gpu")

    text = folded(out)
    assert "TFLOP/s/GPU of 2 lines do not compare, for their FLOPs are counted under different conventions" in text
    assert "*" not in out
    assert "[" not in out


def test_rows_without_a_rate_are_compared_by_what_they_have(nemoperf: Any) -> None:
    words = ("compare", "published:gb200", "published:gb300", "--where", "model=wan*")

    _, out, _ = nemoperf(*words)
    _, asked, _ = nemoperf(*words, "--metric", RATE)

    assert "TFLOP/s/GPU case" in folded(out)
    assert "not shown, for no row has tokens/sec/GPU." in folded(asked)


def test_a_source_without_a_counterpart_leaves_its_place_in_a_line_empty(nemoperf: Any, releases: None) -> None:
    nemoperf("release", "0.6")
    store(plan_on("b200"), 1.0)
    store(plan_on("h100", variant="new"), 2.0)

    _, out, _ = nemoperf("compare", "0.4", "0.6", "h100", "--where", "case=*one")
    _, partly, _ = nemoperf("compare", "h100", "0.4", "system:h100", "--where", "system=h100")

    assert "1 of 1 row of 0.4, 1 of 1 row of 0.6, 1 of 1 row of h100" in folded(out)
    assert "2 3, 0.2% - - - 2 3, 0.2% 1.000 [" in folded(partly)


def test_many_lines_that_also_differ_are_cut_short_unless_all_are_asked_for(nemoperf: Any) -> None:
    for number in range(22):
        store(plan_on("h100", seed=number, seq_len=64 * (number + 1)), 1.0)
        store(plan_on("b200", seed=number + 1, seq_len=64 * (number + 1)), 1.0)

    _, short, _ = nemoperf("compare", "h100", "b200")
    _, whole, _ = nemoperf("compare", "h100", "b200", "--all")

    assert "and 2 more; --all names them" in folded(short)
    assert short.count(": seed") == 20
    assert whole.count(": seed") == 22


def test_nothing_in_common_is_exit_code_1_with_what_would_have_to_be_equal(nemoperf: Any) -> None:
    store(plan_on("h100"), 100.0)
    store(plan_on("b200", seq_len=128), 250.0)

    code, out, err = nemoperf("compare", "h100", "b200")

    assert (code, out) == (1, "")
    assert "it would have to be of the same case, or equal in framework, workload, model, precision, gpus" in err
    assert "--equal COLUMN,... names fewer" in err
    assert "num_samples" not in err


def test_a_source_without_rows_is_named(nemoperf: Any) -> None:
    store(plan_on("h100"), 100.0)

    code, _, err = nemoperf("compare", "h100", "system:b200")

    assert code == 1
    assert "nothing to compare: system:b200 has no row; nemoperf show lists what there is" in err


def test_sources_without_rows_name_the_condition_that_may_leave_them_out(nemoperf: Any, releases: None) -> None:
    code, _, err = nemoperf("compare", "release:0.4", "release:0.5", "--where", "gpus=99")

    assert code == 1
    assert "release:0.4 and release:0.5 have no row; --where may leave out too many" in err


def test_options_take_the_second_names_of_columns_too(nemoperf: Any, releases: None) -> None:
    words = ("compare", "release:0.4", "release:0.5", "--format", "json")

    _, short, _ = nemoperf(*words, "--metric", "tokens", "--equal", "gbs,mbs,seq")
    _, full, _ = nemoperf(*words, "--metric", RATE, "--equal", "global_batch_size,micro_batch_size,seq_len")

    assert json.loads(short) == json.loads(full)
    assert json.loads(short)["equal"] == ["global_batch_size", "micro_batch_size", "seq_len"]


def test_sources_without_rows_are_all_named(nemoperf: Any) -> None:
    code, _, err = nemoperf("compare", "h100", "b200")

    assert code == 1
    assert "nothing to compare: h100 and b200 have no row; nemoperf show lists what there is" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("h100",), "h100: nothing to compare it with; name another source of rows"),
        (("h100", "b201"), "b201: neither a file or folder nor a release, system, framework or layout; did you"),
        (("h100", "b200", "h100"), "h100 is named 2 times; a source beside itself shows nothing: name others"),
        (("h100", "b200", "--metric", "mfu_pc"), "--metric=mfu_pc: unknown metric; did you mean mfu_pct"),
        (("h100", "b200", "--metric", "gpus"), "--metric=gpus: unknown metric; known: "),
        (("h100", "b200", "--equal", "modl"), "--equal: unknown column 'modl'; did you mean model?"),
        (("h100", "b200", "--equal", ""), "--equal: unknown column ''"),
        (("h100", "b200", "--sort", "ration"), "--sort: unknown column 'ration'"),
        (("h100", "b200", "--where", "gpus"), "--where: 'gpus' is no condition"),
        (("h100", "b200", "--baselines", "nowhere"), "--baselines=nowhere: no such folder"),
        (("h100", "bad.json"), "bad.json: not JSON"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(nemoperf: Any, words: tuple[str, ...], message: str) -> None:
    Path("bad.json").write_text("{", encoding="utf-8")

    code, out, err = nemoperf("compare", *words)

    assert (code, out) == (2, "")
    assert err.startswith(f"nemoperf: error: {message}")


def test_rows_are_filtered_before_they_are_matched(nemoperf: Any, releases: None) -> None:
    _, out, _ = nemoperf("compare", "0.4", "0.5", "--where", "case=*one")

    assert "By case: 1 of 1 row of 0.4, 1 of 1 row of 0.5." in folded(out)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("ratio", ["one", "other"]),
        ("-ratio", ["other", "one"]),
        (RATE, ["one", "other"]),
        ("-case", ["other", "one"]),
    ],
)
def test_lines_are_sorted_by_ratio_or_by_a_column(
    nemoperf: Any, releases: None, sort: str, expected: list[str]
) -> None:
    _, out, _ = nemoperf("compare", "0.4", "0.5", f"--sort={sort}", "--format", "csv")

    labels = [line["label"].rpartition("-")[2] for line in csv.DictReader(io.StringIO(out))]
    assert list(dict.fromkeys(labels)) == expected


def test_csv_has_a_line_for_each_figure(nemoperf: Any, releases: None) -> None:
    _, out, _ = nemoperf("compare", "0.4", "0.5", "--metric", RATE, "--metric", "peak_memory_gib", "--format", "csv")

    lines = list(csv.DictReader(io.StringIO(out)))
    assert [line["metric"] for line in lines] == [RATE] * 4 + ["peak_memory_gib"] * 4
    first, second = lines[:2]
    assert (first["source"], first["value"], first["num_runs"], first["is_best"], first["ratio"]) == (
        "0.4", "100.0", "3", "1", "",
    )  # fmt: skip
    assert (second["source"], second["value"], second["ratio"]) == ("0.5", "50.0", "0.5")
    assert 0.4 < float(second["ratio_low"]) < 0.5 < float(second["ratio_high"]) < 0.6


def test_json_has_lines_rows_and_figures(nemoperf: Any, releases: None) -> None:
    _, out, _ = nemoperf("compare", "0.4", "0.5", "--format", "json")

    data = json.loads(out)
    assert data["sources"] == ["0.4", "0.5"]
    assert [len(line["rows"]) for line in data["lines"]] == [2, 2]
    assert data["lines"][0]["figures"][RATE][1]["ratio"]["value"] == 0.5
    assert data["unmatched"] == [[], []]


def test_markdown_has_the_best_in_bold(nemoperf: Any, releases: None) -> None:
    _, out, _ = nemoperf("compare", "0.4", "0.5", "--format", "markdown")

    assert "| case | 0.4 | runs | 0.5 | runs | / 0.4 |" in out
    assert "| **100** | 3, 0.2% | 50 | 3, 0.2% | 0.500 " in out


@pytest.mark.parametrize("form", ["table", "csv", "json", "markdown"])
def test_rows_without_a_counterpart_are_counted_and_listed_if_asked(nemoperf: Any, releases: None, form: str) -> None:
    lonely = plan_on("h100", variant="lonely")
    store(lonely, 1.0)

    _, few, _ = nemoperf("compare", "0.4", "h100", "--format", form)
    _, whole, _ = nemoperf("compare", "0.4", "h100", "--format", form, "--all")

    assert lonely.case in whole
    if form in {"table", "markdown"}:
        assert "Without a counterpart: 1 of h100." in folded(few)
        assert lonely.case not in few


@pytest.mark.parametrize("form", ["table", "csv", "json", "markdown"])
def test_what_a_row_holds_breaks_no_format(nemoperf: Any, releases: None, form: str) -> None:
    path = BASELINES / "releases" / "0.5.json"
    hostile = "a|b\\u001b[31m<script>=`x`"
    text = path.read_text(encoding="utf-8").replace('"model": "llama-tiny"', f'"model": "{hostile}"')
    path.write_text(text.replace("-one", f"-one{hostile}"), encoding="utf-8")

    code, out, _ = nemoperf("compare", "0.4", "0.5", "--format", form, "--all", "--equal", "gpus")

    assert code == 0
    assert "\x1b" not in out
    if form == "json":
        json.loads(out)
    if form == "csv":
        assert {len(line) for line in csv.reader(io.StringIO(out))} == {15}
    if form == "markdown":
        tables = [line.replace(r"\|", "") for line in out.splitlines() if line.startswith("|")]
        assert {line.count("|") for line in tables} == {8}
        assert "<script>" not in out


def test_a_file_is_written_whole_or_stays_as_it_was(
    nemoperf: Any, releases: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Path("out.csv")
    output.write_text("old", encoding="utf-8")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", interrupt)  # type: ignore[attr-defined]  # os as the module sees it
        code, _, _ = nemoperf("compare", "0.4", "0.5", "--format", "csv", "--output", str(output))

    assert code == 130
    assert output.read_text(encoding="utf-8") == "old"


def test_a_written_file_is_named(nemoperf: Any, releases: None) -> None:
    code, out, _ = nemoperf("compare", "0.4", "0.5", "--output", "out.txt")

    assert (code, out) == (0, "out.txt: 2 lines\n")
    assert "By case: 2 of 2 rows of 0.4" in Path("out.txt").read_text(encoding="utf-8")


def test_the_help_has_examples_and_exit_codes(nemoperf: Any) -> None:
    code, out, _ = nemoperf("compare", "--help")

    assert code == 0
    assert "nemoperf compare release:0.4 release:0.5" in out
    assert "exit code:" in out
    assert max(map(len, out.splitlines())) <= 80
