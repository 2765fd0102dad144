from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.report.ci.github import (
    Annotation,
    AnnotationLevel,
    case_annotation,
    cut_summary,
    render_annotation,
    render_step_summary,
    shown_annotations,
)
from pytest_nemoperf.results.cases import NotRun
from tests.builders import make_baseline, make_measurement
from tests.report.builders import make_invalid, make_passed, make_regressed, make_report, make_results


def test_an_annotation_escapes_what_a_workflow_command_reads_as_its_own() -> None:
    annotation = Annotation(
        level=AnnotationLevel.ERROR,
        title="100%: a, b",
        message="5% below:\nwhy, and\r\nhow",
        file="a,b/test.py",
        line=7,
    )

    assert render_annotation(annotation) == (
        "::error file=a%2Cb/test.py,line=7,title=100%25%3A a%2C b::5%25 below:%0Awhy, and%0D%0Ahow"
    )


def test_an_annotation_of_no_line_names_none() -> None:
    assert render_annotation(Annotation(level=AnnotationLevel.NOTICE, title="t", message="m")) == "::notice title=t::m"


def test_of_too_many_annotations_the_last_says_how_many_more_there_are() -> None:
    many = [Annotation(level=AnnotationLevel.WARNING, title=str(number), message="m") for number in range(12)]
    error = Annotation(level=AnnotationLevel.ERROR, title="e", message="m")

    shown = shown_annotations([*many, error])

    assert shown[:10] == [error, *many[:9]]
    assert shown[10:] == [
        Annotation(
            level=AnnotationLevel.WARNING,
            title="3 more",
            message="3 warnings more: GitHub shows 10 of a step, the log has them all",
        )
    ]


def test_a_failing_case_is_an_error_with_its_reasons() -> None:
    annotation = case_annotation(make_regressed().result, file="perf_tests/test_a.py", line=3)

    assert annotation is not None
    assert (annotation.level, annotation.title) == (AnnotationLevel.ERROR, "REGRESSED")
    assert annotation.message.startswith("pretrain-test: tokens/sec/GPU is 16.7% below the baseline (833 against 1,000")
    assert (annotation.file, annotation.line) == ("perf_tests/test_a.py", 3)


@pytest.mark.parametrize(
    ("report", "level", "title"),
    [
        (make_report(), AnnotationLevel.NOTICE, "NO BASELINE"),
        (make_report(make_measurement((2000.0,) * 3), baseline=make_baseline()), AnnotationLevel.NOTICE, "IMPROVED"),
        (make_report(baseline=make_baseline(machine={"cpu": "Other"})), AnnotationLevel.WARNING, "NOT COMPARABLE"),
        (
            make_report(make_measurement((850.0,)), baseline=make_baseline((800.0, 1000.0, 1200.0))),
            AnnotationLevel.WARNING,
            "INCONCLUSIVE",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_what_does_not_fail_but_is_not_plain_is_told_more_quietly(report, level: AnnotationLevel, title: str) -> None:  # type: ignore[no-untyped-def]  # a CaseReport
    annotation = case_annotation(report.result)

    assert annotation is not None
    assert (annotation.level, annotation.title) == (level, title)


def test_a_case_that_just_passed_is_not_annotated() -> None:
    assert case_annotation(make_passed().result) is None


def test_a_waived_loss_is_a_warning_that_says_until_when() -> None:
    case = replace(make_regressed().result, is_failure=False, waived="waived until 2026-12-31: slow kernel")

    annotation = case_annotation(case)

    assert annotation is not None
    assert (annotation.level, annotation.title) == (
        AnnotationLevel.WARNING,
        "REGRESSED, waived until 2026-12-31: slow kernel",
    )


def test_the_step_summary_has_verdicts_blocks_of_failures_and_the_page() -> None:
    reports = [make_regressed("pretrain-a"), make_passed("pretrain-b"), make_invalid("pretrain-c")]
    not_run = (NotRun(nodeid="test_x.py::test_x", reason="no layout\nfor cpu"),)

    text = render_step_summary(make_results(*reports, not_run=not_run), reports=reports)

    assert text.startswith("## Performance on CPU: 1 REGRESSED, 1 PASSED, 1 INVALID\n")
    assert "| REGRESSED | `pretrain-a` | tokens/sec/GPU | 1,000 | 833 | -16.7% |" in text
    assert "| INVALID | `pretrain-c` | - | - |" in text
    assert "<details><summary>REGRESSED pretrain-a</summary>" in text
    assert "where the step's time went" in text
    assert "<summary>PASSED" not in text
    assert "- not run: `test_x.py::test_x`: no layout for cpu" in text
    assert "#### System: CPU. Precision: FP32" in text


def test_a_summary_that_is_too_long_is_cut_at_a_line_with_words() -> None:
    text = "".join(f"line {number} ä\n" for number in range(100))

    cut = cut_summary(text, room=300)

    assert cut.startswith("line 0 ä\nline 1 ä\n")
    assert cut.endswith("ä\n\n**Cut here: GitHub shows 1 MiB of a step. The rest is in the session's results.md.**\n")
    assert len(cut.encode()) <= 300


def test_a_summary_that_fits_is_left_alone() -> None:
    assert cut_summary("a\n", room=2) == "a\n"


def test_where_not_even_the_words_fit_there_is_no_summary() -> None:
    assert cut_summary("x" * 100, room=20) == ""
