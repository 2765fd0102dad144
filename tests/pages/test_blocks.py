from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.errors import PageError
from pytest_nemoperf.pages.blocks import BLOCKS, fill_page
from pytest_nemoperf.pages.markers import parse_page
from pytest_nemoperf.pages.reproduction import SUMMARY
from pytest_nemoperf.pages.selection import ARGUMENTS
from pytest_nemoperf.pages.sources import PageRows
from pytest_nemoperf.published.row import ExcludedRow, PublishedRow
from pytest_nemoperf.results.row import RolloutColumns, Row, RowKind
from tests.pages.rendering import Rendered, rendered
from tests.results.row_builders import make_origin, make_release, make_row

HOSTILE = (
    "a|b`c``<script>alert(1)</script></details>\n<!-- nemoperf:end -->\n# x\x1b[31m [y](javascript:z) \u202e ${{x}}"
)


def make_rollouts(**changes: Any) -> RolloutColumns:
    values: dict[str, Any] = {
        "max_staleness": 0,
        "backend": "Megatron",
        "dataset": "OpenMathInstruct-2",
        "num_samples": 2048,
        "tp": 1,
        "pp": 1,
        "dp": 8,
        "precision": "BF16",
    }
    return RolloutColumns(**{**values, **changes})


def make_rl_row(**changes: Any) -> Row:
    values: dict[str, Any] = {
        "workload": "grpo",
        "framework": "nemo_rl",
        "rollouts": make_rollouts(),
        "values": {"tokens_per_sec_per_gpu": (1500.0, 1510.0), "step_time_sec": (99.0, 98.0)},
    }
    return make_row(**{**values, **changes})


def published_row(**changes: Any) -> Row:
    origin = {
        "kind": RowKind.PUBLISHED,
        "release": "26.02",
        "date": "2026-03-01",
        "commit": "0123456789abcdef",
        "source": "NVIDIA-NeMo/Megatron-Bridge",
        "url": "https://github.com/NVIDIA-NeMo/Megatron-Bridge/blob/main/docs/performance-summary.md",
        **changes.pop("origin", {}),
    }
    values: dict[str, Any] = {
        "case": "pt0001",
        "framework": "megatron_bridge",
        "values": {"tokens_per_sec_per_gpu": (12345.0,), "tflops_per_sec_per_gpu": (494.5,)},
        "origin": make_origin(**{"versions": {}, **origin}),
    }
    return make_row(**{**values, **changes})


def page_of(block: str, *, rows: PageRows) -> str:
    page = parse_page(f"# Page\n\n<!-- nemoperf:begin {block} -->\n<!-- nemoperf:end -->\n", subject="a.md")
    return fill_page(page, rows=rows, subject="a.md").text


def seen(block: str, *, rows: PageRows) -> Rendered:
    return rendered(page_of(block, rows=rows))


def titles(page: Rendered) -> list[str]:
    return [title for _, title in page.headings[1:]]


def test_every_kind_of_block_has_arguments_and_lines() -> None:
    assert ARGUMENTS.keys() == BLOCKS.keys()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        pytest.param("table", "a.md:3: unknown kind of block 'table'; did you mean tables", id="kind"),
        pytest.param("tables system=h100", "unknown argument 'system' of block 'tables'; did you mean", id="argument"),
        pytest.param("tables systems=h101", "a.md:3: systems: unknown system 'h101'", id="system"),
        pytest.param("tables workload=pretrian", "unknown workload 'pretrian'; did you mean pretrain", id="workload"),
        pytest.param("tables workload=rl sections=grpo:x", "'grpo:x' is no section", id="section"),
        pytest.param("tables sections=ppo", "sections: 'ppo' is of another workload than 'pretrain'", id="no section"),
        pytest.param(
            "tables workload=grpo sections=ppo",
            "'ppo' is of another workload than 'grpo'; write workload=rl",
            id="other section",
        ),
        pytest.param("tables precisions=bf61", "unknown precision 'bf61'; did you mean bf16", id="precision"),
        pytest.param("releases level=7", "level='7' must be 2 or 3", id="level"),
        pytest.param("notes title=x", "unknown argument 'title' of block 'notes'", id="argument of another"),
    ],
)
def test_an_unknown_word_is_an_error_with_its_line(block: str, message: str) -> None:
    with pytest.raises(PageError) as caught:
        page_of(block, rows=PageRows())

    assert message in str(caught.value)


def test_a_page_without_blocks_is_an_error() -> None:
    with pytest.raises(PageError, match=r"a\.md: has no blocks to fill"):
        fill_page(parse_page("# Page\n", subject="a.md"), rows=PageRows(), subject="a.md")


def test_a_system_without_results_keeps_an_empty_table_and_the_command_for_it() -> None:
    page = seen("tables frameworks=automodel systems=gb200,h100", rows=PageRows())

    assert titles(page) == ["System: DGX-GB200. Precision: BF16", "System: DGX-H100. Precision: BF16"]
    assert [len(table) for table in page.tables] == [1, 1]
    command = "pytest -m perf --system=gb200 --perf-framework=automodel -k pretrain --update-baselines"
    assert f"No results yet. {command} fills this table." in page.text


def test_a_block_of_any_system_without_results_has_the_command_for_it() -> None:
    text = seen("tables frameworks=automodel", rows=PageRows()).text

    command = "pytest -m perf --system=auto --perf-framework=automodel -k pretrain --update-baselines"
    assert f"No results yet. {command} fills this section." in text


def test_a_release_that_is_asked_for_and_has_no_rows_says_so() -> None:
    page = seen("releases releases=99", rows=PageRows())

    assert titles(page) == ["Release 99"]
    assert "No rows of this section are of this release." in page.text


def test_tables_are_by_system_and_precision_in_the_order_of_the_block() -> None:
    rows = PageRows(
        measured=tuple(
            make_row(case=f"{system}-{precision}", system=system, precision=precision, framework="megatron")
            for system in ("h100", "gb200")
            for precision in ("FP8_CS", "BF16")
        )
    )

    page = seen("tables frameworks=megatron systems=gb200,h100 precisions=bf16,fp8", rows=rows)

    assert titles(page) == [
        "System: DGX-GB200. Precision: BF16",
        "System: DGX-GB200. Precision: FP8_CS",
        "System: DGX-H100. Precision: BF16",
        "System: DGX-H100. Precision: FP8_CS",
    ]
    assert [len(table) for table in page.tables] == [2, 2, 2, 2]


def test_rows_of_the_native_engine_are_in_no_other_block() -> None:
    rows = PageRows(measured=(make_row(framework="torch"), make_row(framework="megatron", model="other")))

    tables, native = seen("tables systems=h100", rows=rows), seen("native", rows=rows)

    assert [row[0] for row in tables.tables[0][1:]] == ["other"]
    assert [row[0] for row in native.tables[0][1:]] == ["llama3-8b"]


def test_sections_of_rl_are_named_as_the_seed_names_them() -> None:
    rows = PageRows(measured=(make_rl_row(), make_rl_row(case="b", rollouts=make_rollouts(max_staleness=1))))

    page = seen("tables frameworks=nemo_rl workload=rl systems=h100 sections=ppo", rows=rows)

    assert titles(page) == [
        "PPO Performance on-policy",
        "System: DGX-H100. Precision: Training BF16, Generation BF16.",
        "GRPO Performance on-policy. Dataset: OpenMathInstruct-2",
        "System: DGX-H100. Precision: Training BF16, Generation BF16.",
        "GRPO Performance 1-step off. Dataset: OpenMathInstruct-2",
        "System: DGX-H100. Precision: Training BF16, Generation BF16.",
    ]


def test_a_section_of_any_data_set_is_not_empty_beside_rows_of_one() -> None:
    rows = PageRows(measured=(make_rl_row(), make_rl_row(case="b", workload="ppo")))

    page = seen("tables frameworks=nemo_rl workload=rl systems=h100 sections=ppo,grpo", rows=rows)

    assert titles(page)[::2] == [
        "PPO Performance on-policy. Dataset: OpenMathInstruct-2",
        "GRPO Performance on-policy. Dataset: OpenMathInstruct-2",
    ]
    assert "No results yet" not in page.text


def test_a_section_of_rows_without_a_data_set_says_so() -> None:
    rows = PageRows(measured=(make_rl_row(rollouts=make_rollouts(dataset="")),))

    page = seen("tables frameworks=nemo_rl workload=grpo systems=h100", rows=rows)

    assert titles(page)[0] == "GRPO Performance on-policy. Dataset: not stated"


def test_details_reproduce_a_row() -> None:
    row = make_row(
        framework="megatron",
        values={"tokens_per_sec_per_gpu": (100.0, 102.0), "tflops_per_sec_per_gpu": (400.0,), "mfu_pct": (40.4,)},
        flops_convention="megatron-bridge",
        settings={"model": {"name": "llama3-8b", "hidden_size": 4096}, "layout": {"tp": 1, "dp_shard": 8}, "seed": 1},
        origin=make_origin(command="pytest -m perf", container="image:1", source="baselines/h100/a.json"),
    )

    text = seen("tables frameworks=megatron systems=h100", rows=PageRows(measured=(row,))).text

    for fact in (
        'Recipe: {"model": "llama3-8b", "layout": {"dp_shard": 8}, "seed": 1}',
        "Command: pytest -m perf",
        "Commit 0123456789ab; container image:1; date 2026-11-01T10:00:00Z; device 8x NVIDIA H100 80GB HBM3; from base",
        "2 runs; spread of tokens/sec/GPU 2%",
        "Model FLOPs 400 TFLOP/s/GPU, as a share of the dense peak 40%; FLOPs convention megatron-bridge",
    ):
        assert fact in text


def test_a_release_names_the_page_that_its_rows_are_of() -> None:
    page = seen("published systems=h100", rows=PageRows(published=(published_row(),)))

    assert titles(page) == ["Release 26.02", "System: DGX-H100. Precision: BF16"]
    assert page.tables[0][1][-2:] == ("12345", "494.5")
    assert "Published: NVIDIA-NeMo/Megatron-Bridge, commit 0123456789ab, 2026-03-01." in page.text
    assert "one value, no spread" in page.text


def test_the_share_of_the_peak_of_a_published_row_is_computed() -> None:
    text = seen("published systems=h100", rows=PageRows(published=(published_row(),))).text

    assert "Model FLOPs 494.5 TFLOP/s/GPU, as a share of the dense peak 50% (computed)" in text


def test_a_release_mixes_frozen_and_published_rows_with_marks() -> None:
    frozen = make_release("26.02", make_row(framework="megatron", case="own"))

    page = seen("releases systems=h100", rows=PageRows(releases=(frozen,), published=(published_row(),)))

    assert titles(page) == ["Release 26.02", "System: DGX-H100. Precision: BF16"]
    assert sorted(row[0] for row in page.tables[0][1:]) == ["llama3-8b", "llama3-8b [1]"]
    assert "[1] Published: NVIDIA-NeMo/Megatron-Bridge" in page.text


def test_a_draft_is_marked_as_one() -> None:
    row = published_row(origin={"kind": RowKind.DRAFT})

    text = seen("published systems=h100", rows=PageRows(published=(row,))).text

    assert "Draft, never released: NVIDIA-NeMo/Megatron-Bridge" in text


def test_facts_that_all_rows_of_a_table_share_are_said_once() -> None:
    rows = PageRows(measured=tuple(make_row(case=case, framework="megatron") for case in ("a", "b")))
    versions = {"torch": "2.9.0", "python": "3.12.1"}
    changed = replace(rows.measured[1], origin=make_origin(container="image:2", versions=versions))

    same = seen("tables systems=h100", rows=rows).text
    different = seen("tables systems=h100", rows=PageRows(measured=(rows.measured[0], changed))).text

    assert same.count("Commit 0123456789ab; container") == 1
    assert same.count("torch 2.8.0; python 3.12.1") == 1
    assert different.count("Commit 0123456789ab") == 1
    assert different.count("python 3.12.1") == 1
    assert "torch 2.9.0" in different
    assert "Container image:2" in different
    assert "Container none or unknown" in different


def test_a_source_of_several_tables_is_named_once() -> None:
    rows = PageRows(published=tuple(published_row(case=name, precision=name) for name in ("BF16", "FP8")))

    page = seen("published systems=h100", rows=rows)

    assert len(page.tables) == 2
    assert page.text.count("Published: NVIDIA-NeMo/Megatron-Bridge") == 1


def test_sources_have_the_same_marks_in_every_table_of_a_release() -> None:
    rows = tuple(
        published_row(case=f"{name}{source}", precision=name, origin={"source": source})
        for name in ("BF16", "FP8")
        for source in ("a/b", "c/d")
    )

    page = seen("published systems=h100", rows=PageRows(published=rows))

    assert [row[0].partition("[")[2] for table in page.tables for row in table[1:]] == ["1]", "2]", "1]", "2]"]
    assert page.text.count("[1] Published: a/b") == page.text.count("[2] Published: c/d") == 1


def test_releases_stand_newest_first() -> None:
    rows = tuple(published_row(case=name, origin={"release": name}) for name in ("25.09", "26.10", "26.2"))

    page = seen("published systems=h100", rows=PageRows(published=rows))

    assert titles(page)[::2] == ["Release 26.10", "Release 26.2", "Release 25.09"]


def test_rows_of_a_branch_are_no_release_and_stand_behind_those() -> None:
    days = {"1": "2026-03-01", "2": "2026-06-12T10:00:00Z"}
    rows = [published_row(case=name, origin={"release": "main", "date": day}) for name, day in days.items()]

    page = seen("published systems=h100", rows=PageRows(published=(*rows, published_row())))

    assert titles(page)[::2] == ["Release 26.02", "Branch main, as of 2026-06-12"]


def test_releases_of_no_page_stand_before_those_of_published_pages() -> None:
    frozen = tuple(make_release(name, make_row(framework="megatron")) for name in ("0.5", "26.10", "0.4"))
    rows = tuple(published_row(case=name, origin={"release": name}) for name in ("26.08", "26.10"))

    page = seen("releases systems=h100", rows=PageRows(releases=frozen, published=rows))

    assert [title for title in titles(page) if title.startswith("Release")] == [
        "Release 0.5",
        "Release 0.4",
        "Release 26.10",
        "Release 26.08",
    ]


def test_excluded_rows_are_counted_with_their_reason() -> None:
    row = PublishedRow(
        id="rl1", source="NVIDIA-NeMo/RL", path="docs/a.md", release="26.02", task="pretrain", framework="nemo",
        model="m", system="h100", system_title="DGX-H100", gpus=8, printed={},
    )  # fmt: skip
    rows = PageRows(published=(published_row(),), excluded=(ExcludedRow(row=row, reason="101 and 274 tokens"),))

    page = seen("published systems=h100", rows=rows)

    assert any("not shown: 1 row with figures that contradict each other, or of drafts" in line for line in page.html)
    assert "101 and 274 tokens" in page.text


@pytest.mark.parametrize(
    ("changes", "fact"),
    [
        pytest.param(
            {"seq_len": 8192, "global_batch_size": 128, "micro_batch_size": 1, "tp": 1, "pp": 1, "cp": 1},
            "Command: pytest -m perf --system=h100 --perf-against=published perf_tests/published -k pt0001",
            id="recipe",
        ),
        pytest.param({}, "No recipe: the page prints no sequence length", id="none"),
    ],
)
def test_a_published_row_has_its_command_or_the_reason_for_none(changes: dict[str, Any], fact: str) -> None:
    printed = PublishedRow(
        id="pt0001", source="NVIDIA-NeMo/Megatron-Bridge", path="docs/a.md", release="26.02", task="pretrain",
        framework="megatron_bridge", model="LLAMA3 8B", system="h100", system_title="DGX-H100", gpus=8,
        precision="BF16", printed={"tokens_per_sec_per_gpu": "12345"}, **changes,
    )  # fmt: skip

    text = seen("published", rows=PageRows(published=(published_row(),), printed={"pt0001": printed})).text

    assert fact in text


def test_a_page_of_a_release_shows_its_rows_alone() -> None:
    old = make_release("0.4", make_row(framework="megatron", model="old"))
    new = make_release("0.5", make_row(framework="megatron", model="new"))
    rows = PageRows(measured=old.rows, releases=(new, old), release="0.4")

    page = seen("releases systems=h100", rows=rows)

    assert titles(page) == ["Release 0.4", "System: DGX-H100. Precision: BF16"]
    assert page.tables[0][1][0] == "old"


def test_changes_are_those_since_the_previous_release() -> None:
    old = make_release("0.4", make_row((100.0,) * 3, framework="megatron"))
    new = make_release("0.5", make_row((50.0,) * 3, framework="megatron"), previous="0.4")

    page = seen("changes frameworks=megatron", rows=PageRows(releases=(new, old)))

    assert page.tables[0][0][3:5] == ("0.4", "0.5")
    assert page.tables[0][1][3:5] == ("100", "50")


@pytest.mark.parametrize(
    ("releases", "text"),
    [
        pytest.param((), "No release is frozen yet.", id="none"),
        pytest.param((make_release("0.4"),), "Release 0.4 is the first one.", id="first"),
        pytest.param((make_release("0.5"), make_release("0.4")), "have no measured rows of this section", id="no rows"),
    ],
)
def test_changes_without_two_releases_say_so(releases: Any, text: str) -> None:
    assert text in seen("changes frameworks=megatron", rows=PageRows(releases=releases)).text


def test_notes_tell_of_balance_and_dropped_tokens() -> None:
    settings = {"model": {"name": "moe", "moe": {"num_experts": 8}}}
    rows = PageRows(
        measured=(
            make_row(case="a", framework="megatron", model="even", settings={**settings, "is_router_balanced": True}),
            make_row(case="b", framework="megatron", model="routed", settings=settings),
        )
    )

    text = seen("notes", rows=rows).text

    assert "tokens spread evenly over the experts: even." in text
    assert "routed by the model's own router: routed." in text
    assert "no token is dropped" in text
    assert "(here 3 runs)" in text


@pytest.mark.parametrize("settings", [{"framework_config": "a.yaml"}, {"framework_options": {"capacity_factor": 1}}])
def test_notes_do_not_claim_that_a_framework_drops_no_token(settings: dict[str, Any]) -> None:
    row = make_row(framework="megatron", settings={"model": {"moe": {"num_experts": 8}}, **settings})

    text = seen("notes", rows=PageRows(measured=(row,))).text

    assert "Token drop is as the framework's own recipe or options say: llama3-8b." in text
    assert "dropless" not in text


def test_metrics_name_the_conventions_of_the_rows() -> None:
    rows = PageRows(measured=(make_row(framework="megatron", flops_convention="megatron-bridge"),))

    text = seen("metrics", rows=rows).text

    assert "Tokens/sec/GPU = GBS x Sequence Length / (step time in seconds x #-GPUs)" in text
    assert "megatron-bridge (1 row): causal attention is halved" in text


def test_metrics_of_rl_have_both_kinds_of_mfu() -> None:
    text = seen("metrics workload=rl", rows=PageRows()).text

    assert "Training FLOP/sec/GPU = FLOPs per token x tokens of the step" in text
    assert "Training MFU = Training FLOP/sec/GPU / peak FLOP/sec" in text


@pytest.mark.parametrize("block", ["tables systems=h100", "releases", "published", "notes", "metrics", "native"])
@pytest.mark.parametrize("workload", ["pretrain", "rl"])
def test_hostile_text_is_text(block: str, workload: str) -> None:
    changes: dict[str, Any] = {"case": HOSTILE, "model": HOSTILE, "precision": HOSTILE, "flops_convention": HOSTILE}
    origin = dict.fromkeys(("release", "date", "commit", "device", "container", "command", "source", "note"), HOSTILE)
    origin["url"] = f"https://x.org/){HOSTILE}"
    moe = {"name": HOSTILE, "moe": {HOSTILE: HOSTILE}}
    make: Callable[..., Row] = make_row
    if workload == "rl":
        make = make_rl_row
        changes["rollouts"] = make_rollouts(backend=HOSTILE, dataset=HOSTILE, precision=HOSTILE, is_pinned=True)
    settings = {"model": moe, HOSTILE: HOSTILE, "framework_options": {HOSTILE: "capacity"}}
    own = make(
        framework="torch" if block == "native" else "nemo_rl", settings=settings, **changes,
        origin=make_origin(**{**origin, "versions": {HOSTILE: HOSTILE}}),
    )  # fmt: skip
    published = make(
        **{**changes, "framework": HOSTILE, "origin": make_origin(**{**origin, "kind": RowKind.PUBLISHED})}
    )
    rows = PageRows(measured=(own,), releases=(make_release("0.4", own),), published=(published,))

    text = page_of(f"{block} workload={workload}", rows=rows)

    page = rendered(text)
    assert set(page.html) <= {"<details>", f"<summary>{SUMMARY}</summary>", "</details>", "<span>", "</span>"}
    assert page.html.count("<details>") == page.html.count("</details>")
    assert {"# x", "x"}.isdisjoint(titles(page))
    assert all(link.startswith(("https://x.org/", "https://huggingface.co/")) for link in page.links)
    assert len(parse_page(text, subject="a.md").blocks) == 1
    assert all(len(row) == len(table[0]) for table in page.tables for row in table)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_notes_say_which_figures_are_those_that_a_session_judged() -> None:
    stored = make_row(framework="megatron", case="a")
    judged = make_row(framework="megatron", case="b", judged={"tokens_per_sec_per_gpu": 99.0})

    text = seen("notes", rows=PageRows(measured=(stored, judged))).text

    assert "1 row is of a session's results, with the figures that it judged" in text
    assert "judged" not in seen("notes", rows=PageRows(measured=(stored,))).text


def test_metrics_count_the_rows_that_the_page_shows() -> None:
    published = tuple(published_row(case=name, system=name, flops_convention="nemo-24.07") for name in ("h100", "h200"))
    native = make_row(framework="torch", system="cpu", flops_convention="megatron-bridge")
    frozen = make_release("0.4", make_row(framework="nemo_rl", flops_convention="automodel"))
    rows = PageRows(measured=(native,), published=published, releases=(frozen,))

    text = seen("metrics systems=h100 frameworks=megatron_bridge", rows=rows).text
    of_release = seen("metrics", rows=replace(rows, release="0.4")).text

    assert "nemo-24.07 (1 row)" in text
    assert "megatron-bridge (1 row)" in text
    assert "automodel" not in text
    assert "automodel (1 row)" in of_release
    assert "nemo-24.07" not in of_release
