"""What GitHub Actions shows: annotations at the lines of tests and files, and the summary of a step.

Workflow commands, their escapes and limits: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
and https://github.com/actions/toolkit/blob/main/docs/problem-matchers.md (10 of a level a step, 50 a job).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.metrics import METRICS
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.report.cells import (
    allowed_text,
    deciding_comparison,
    earlier_text,
    percent,
    signed_percent,
    verdict_word,
)
from pytest_nemoperf.report.failure import render_failure
from pytest_nemoperf.report.markdown import render_markdown
from pytest_nemoperf.report.resolving import interval_text
from pytest_nemoperf.report.stored import unasked_lines, unasked_title
from pytest_nemoperf.report.tables import code, one_line, table_lines
from pytest_nemoperf.results import CaseReport, CaseResult, SessionResults, Unasked

MAX_OF_A_LEVEL: Final = 10
"""Annotations of one level GitHub shows of a step."""
MAX_SUMMARY_BYTES: Final = 2**20
"""Of a step; a summary above it is not shown at all."""

_CUT_NOTE = "\n\n**Cut here: GitHub shows 1 MiB of a step. The rest is in the session's results.md.**\n"
_BLOCK_WIDTH = 100
_HEADINGS = ("Verdict", "Case", "Metric", "Baseline", "Now", "Delta", "95% interval", "Allowed", "Resolves")


class AnnotationLevel(StrEnum):
    """How GitHub marks an annotation."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A message at a line of a file.

    Attributes:
        level: How it is marked.
        title: Its first line.
        message: What it says; may have several lines.
        file: Relative to the root of the repository; empty for the run as a whole.
        line: Counted from 1; None for the file as a whole.
    """

    level: AnnotationLevel
    title: str
    message: str
    file: str = ""
    line: int | None = None


def render_annotation(annotation: Annotation) -> str:
    """Return the workflow command that makes an annotation."""
    properties = {"file": annotation.file, "line": annotation.line, "title": annotation.title}
    given = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items() if value)
    return f"::{annotation.level} {given}::{_data(annotation.message)}"


def shown_annotations(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Return what GitHub can show, worst first: of more than ten of a level, nine and how many more there are."""
    by_level = {level: [each for each in annotations if each.level is level] for level in AnnotationLevel}
    shown = []
    for level, own in by_level.items():
        if len(own) <= MAX_OF_A_LEVEL:
            shown += own
            continue
        rest = len(own) - MAX_OF_A_LEVEL + 1
        more = f"{count_text(rest, level.value)} more: GitHub shows {MAX_OF_A_LEVEL} of a step, the log has them all"
        shown += [*own[: MAX_OF_A_LEVEL - 1], Annotation(level=level, title=f"{rest} more", message=more)]
    return shown


def case_annotation(case: CaseResult, *, file: str = "", line: int | None = None) -> Annotation | None:
    """Return what is to be said of a case at its test, or None of one that just passed."""
    verdict = case.verdict
    if case.is_failure:
        level = AnnotationLevel.ERROR
    elif verdict.kind is VerdictKind.PASSED and not case.waiver_note and not case.had_other_verdicts:
        return None
    else:
        is_good = verdict.kind in {VerdictKind.IMPROVED, VerdictKind.NO_BASELINE}
        level = (
            AnnotationLevel.NOTICE
            if is_good or (case.stored_path and not case.is_stored_locally)
            else AnnotationLevel.WARNING
        )
    mark = "INJECTED " if case.measurement.inject_pct else ""
    word = f"{verdict.kind}, {case.waived}" if case.waived else verdict_word(case)
    facts = [text for text in (case.waiver_note, earlier_text(case), *verdict.reasons) if text]
    return Annotation(
        level=level, title=f"{mark}{word}", message=f"{verdict.case}: " + "\n".join(facts), file=file, line=line
    )


def unasked_annotation(unasked: Unasked) -> Annotation:
    """Return what is to be said of stored baselines that may be those of cases without one."""
    level = AnnotationLevel.ERROR if unasked.is_failure else AnnotationLevel.WARNING
    return Annotation(level=level, title=unasked_title(unasked), message="\n".join(unasked_lines(unasked)))


def render_step_summary(results: SessionResults, *, reports: Sequence[CaseReport]) -> str:
    """Return the summary of a session: verdicts, the blocks of failing cases, what did not run, and its page.

    Args:
        results: The session.
        reports: Its cases with what they were compared with.
    """
    lines = [f"## Performance on {results.system_title}: {_counts(results)}", ""]
    if results.cases:
        lines += [*table_lines(_HEADINGS, rows=[_row(case) for case in results.cases]), ""]
    for report in reports:
        lines += _block(report)
    lines += [f"- not run: {code(each.nodeid)}: {one_line(each.reason)}" for each in results.not_run]
    return "\n".join([*lines, "", render_markdown(results)])


def cut_summary(text: str, *, room: int) -> str:
    """Return a text in at most so many bytes, cut at the end of a line, and with words that say so.

    Args:
        text: Markdown.
        room: Bytes that are left of the step's; where not even the words fit, nothing is returned.
    """
    whole = text.encode()
    if len(whole) <= room:
        return text
    left = room - len(_CUT_NOTE.encode())
    if left < 0:
        return ""
    kept = whole[:left].decode(errors="ignore")
    return kept[: kept.rfind("\n") + 1].rstrip("\n") + _CUT_NOTE


def _counts(results: SessionResults) -> str:
    counts = Counter(verdict_word(case) for case in results.cases)
    return (
        ", ".join(f"{number} {word}" for word, number in counts.items()) or results.why_none or "no case was measured"
    )


def _row(case: CaseResult) -> list[str]:
    head = [verdict_word(case), code(case.verdict.case)]
    decisive = deciding_comparison(case.verdict.comparisons, kind=case.verdict.kind)
    if decisive is None:
        return [*head, *["-"] * (len(_HEADINGS) - len(head))]
    metric = METRICS[decisive.metric]
    return [
        *head,
        metric.label + (f" ({decisive.anchor})" if decisive.anchor else ""),
        metric.format(decisive.baseline),
        metric.format(decisive.now),
        signed_percent(decisive.delta_pct),
        interval_text(decisive),
        allowed_text(decisive),
        percent(decisive.resolution_pct),
    ]


def _block(report: CaseReport) -> Iterator[str]:
    case = report.result
    if case.is_failure:
        text = render_failure(report, width=_BLOCK_WIDTH, color=False)
        title = f"{verdict_word(case)} {case.verdict.case}"
        yield from (f"<details><summary>{title}</summary>", "", "````text", text, "````", "", "</details>", "")
    elif note := case.waived or case.waiver_note or earlier_text(case):
        yield from (f"- {verdict_word(case)} {code(case.verdict.case)}: {note}", "")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
