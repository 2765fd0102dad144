"""Hostile texts in recipes, logs and baselines: no report lets a terminal, a page, GitHub or JUnit obey them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.report.ci.github import case_annotation, render_annotation, render_step_summary
from pytest_nemoperf.report.ci.junit import properties
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.report.terminal.summary import render_summary
from pytest_nemoperf.results.cases import CaseReport, NotRun, SessionResults
from tests.builders import make_provenance
from tests.report.builders import make_invalid, make_passed, make_regressed, make_results

TERMINAL = "\x1b]0;owned\x07\x1b[2J\x9b1A\x1b[8m\u202e\r"
MARKDOWN = "\n\n# owned\n<script>owned()</script></details> | x | [a](javascript:b) ![i](c) `y` {ref}`z` $m$ ~~s~~"
EVIL = f"note{TERMINAL}{MARKDOWN}"
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def make_hostile(report: CaseReport) -> CaseReport:
    """Return a report with hostile text wherever a recipe, a log, a waiver or a user gives one."""
    result = report.result
    assert result.plan is not None
    plan = replace(result.plan, notes=(EVIL,))
    verdict = replace(result.verdict, reasons=(EVIL, *result.verdict.reasons))
    hostile = replace(
        result,
        plan=plan,
        verdict=verdict,
        nodeid=f"test_x.py::test[{EVIL}]",
        run_dir=f"runs/{EVIL}",
        waiver_note=EVIL,
        accepted_reason=EVIL,
        storing_note=EVIL,
        stored_path=f"baselines/cpu/{EVIL}.json",
    )
    baseline: Baseline | None = None
    if report.baseline is not None:
        baseline = replace(report.baseline, reason=EVIL, environment={f"NCCL_{EVIL}": EVIL})
    return replace(
        report,
        result=hostile,
        baseline=baseline,
        rerun_command=f"pytest -m perf '{EVIL}'",
        environment={**report.environment, "torch": EVIL, EVIL: EVIL},
    )


@pytest.fixture
def reports() -> list[CaseReport]:
    return [make_hostile(report) for report in (make_regressed("a"), make_passed("b"), make_invalid("c"))]


@pytest.fixture
def results(reports: list[CaseReport]) -> SessionResults:
    origin = make_provenance(command=f"pytest -k '{EVIL}'", versions={"torch": EVIL}, device=EVIL, driver=EVIL)
    made = make_results(*reports, not_run=(NotRun(nodeid=EVIL, reason=EVIL),))
    return replace(made, provenance=origin, git_problem=EVIL, replay_of=EVIL)


@pytest.mark.parametrize("color", [False, True])
def test_the_terminal_obeys_nothing_but_the_report_s_own_colours(
    *, color: bool, reports: list[CaseReport], results: SessionResults
) -> None:
    texts = [render_failure(report, width=80, color=color) for report in reports]
    texts.append(render_summary(results, reports=reports, width=80, color=color, written=[EVIL]))

    for text in texts:
        plain = _STYLE.sub("", text)
        assert "note" in plain
        assert all(character == "\n" or character.isprintable() for character in plain)
        assert "\x1b[8m" not in text


def test_a_page_s_structure_is_its_own(results: SessionResults) -> None:
    page = render_markdown(results)

    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(page)
    inline = [child for token in tokens for child in token.children or ()]
    tags = {token.content for token in inline if token.type == "html_inline"}
    assert "owned" in page
    assert not {"html_block", "fence", "code_block"} & {token.type for token in tokens}
    assert not {"link_open", "image", "s_open", "softbreak", "hardbreak"} & {token.type for token in inline}
    assert tags == {"<span>", "</span>"}
    headings = [tokens[at + 1].content for at, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings == ["Native Engine Pre-Training Performance", "System: CPU. Precision: FP32"]


def test_the_step_summary_keeps_hostile_text_in_its_blocks(results: SessionResults, reports: list[CaseReport]) -> None:
    text = render_step_summary(results, reports=reports)

    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    html = {token.content.strip() for token in tokens if token.type == "html_block"}
    assert "</details>" in html
    assert all(re.fullmatch(r"<details><summary>[A-Z ]+ \w+</summary>|</details>", block) for block in html)
    assert all("owned()" not in block for block in html)
    assert "# owned" not in text.splitlines()[:1]


def test_an_annotation_is_one_command(reports: list[CaseReport]) -> None:
    annotation = case_annotation(reports[0].result, file=f"tests/{EVIL}.py", line=3)
    assert annotation is not None

    line = render_annotation(replace(annotation, title=EVIL))

    assert line.startswith("::error file=tests/note")
    assert line.splitlines() == [line]
    assert line.isprintable()


def test_properties_have_no_characters_that_xml_can_not_hold(reports: list[CaseReport]) -> None:
    named = dict(properties(reports[0]))

    assert "<script>owned()" in named["nemoperf_reason"]
    for value in named.values():
        assert all(character == "\n" or character.isprintable() for character in value)
