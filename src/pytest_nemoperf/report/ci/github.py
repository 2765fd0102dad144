"""GitHub Actions: annotations at the lines of tests and files, and the summary of a step.

Workflow commands, their escapes and limits: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
and https://github.com/actions/toolkit/blob/main/docs/problem-matchers.md (10 of a level a step, 50 a job).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.cells import (
    allowed_text,
    deciding_comparison,
    earlier_text,
    injected_mark,
    side_by_side_text,
    signed_percent,
    verdict_word,
)
from pytest_nemoperf.report.escape import code, code_cell, fenced, html_text, markdown_cell, markdown_text
from pytest_nemoperf.report.markdown.pretrain import render_markdown
from pytest_nemoperf.report.resolution import interval_text, limit_text
from pytest_nemoperf.report.stored import unasked_lines, unasked_title
from pytest_nemoperf.report.tables import ready_table
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.results.cases import CaseReport, CaseResult, SessionResults, Unasked
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.visible import visible_text

MAX_SUMMARY_BYTES: Final = 2**20
"""Maximum size of a step's summary; GitHub does not show a larger one at all."""

_MAX_OF_A_LEVEL = 10  # annotations that GitHub shows of a step

_CUT_NOTE = "\n\n**Cut here: GitHub shows 1 MiB of a step. The rest is in the session's results.md.**\n"
_BLOCK_WIDTH = 100
_HEADINGS = ("Verdict", "Case", "Metric", "Baseline", "Now", "Delta", "95% interval", "Allowed", "Finds")


class AnnotationLevel(StrEnum):
    """GitHub's severities of an annotation, worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A message at a line of a file.

    Attributes:
        level: Severity.
        title: First line.
        message: Text of one or more lines.
        file: Relative to the root of the repository; empty for the whole run.
        line: Counted from 1; None for the whole file.
    """

    level: AnnotationLevel
    title: str
    message: str
    file: str = ""
    line: int | None = None


def render_annotation(annotation: Annotation) -> str:
    """Return the workflow command that makes an annotation."""
    properties = []
    for name, value in (("file", annotation.file), ("line", annotation.line), ("title", annotation.title)):
        if value:
            properties.append(f"{name}={_escaped_property(str(value))}")
    return f"::{annotation.level} {','.join(properties)}::{_escaped(annotation.message)}"


def shown_annotations(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Return the annotations worst first; of more than ten of a level, nine and one with the number of the others."""
    shown: list[Annotation] = []
    for level in AnnotationLevel:
        own = [each for each in annotations if each.level is level]
        if len(own) <= _MAX_OF_A_LEVEL:
            shown += own
            continue
        rest = len(own) - _MAX_OF_A_LEVEL + 1
        more = f"{count_text(rest, level.value)} more: GitHub shows {_MAX_OF_A_LEVEL} of a step, the log has them all"
        shown += [*own[: _MAX_OF_A_LEVEL - 1], Annotation(level=level, title=f"{rest} more", message=more)]
    return shown


def case_annotation(case: CaseResult, *, file: str = "", line: int | None = None) -> Annotation | None:
    """Return the annotation of a case at its test; None if the case passed and nothing else is to be reported."""
    verdict = case.verdict
    is_good = verdict.kind in {VerdictKind.IMPROVED, VerdictKind.NO_BASELINE}
    is_committed = case.stored_path and not case.is_stored_locally
    if case.is_failure:
        level = AnnotationLevel.ERROR
    elif verdict.kind is VerdictKind.PASSED and not case.waiver_note and not case.had_other_verdicts:
        return None
    elif is_good or is_committed:
        level = AnnotationLevel.NOTICE
    else:
        level = AnnotationLevel.WARNING
    title = injected_mark(case.measurement.inject_pct)
    if case.waived:
        title += f"{verdict.kind}, {case.waived}"
    else:
        title += verdict_word(case)
    facts = filter(None, (case.waiver_note, earlier_text(case), *verdict.reasons))
    message = f"{verdict.case}: " + "\n".join(facts)
    return Annotation(level=level, title=title, message=message, file=file, line=line)


def unasked_annotation(unasked: Unasked) -> Annotation:
    """Return the annotation on stored baselines that no test asks for."""
    level = AnnotationLevel.ERROR if unasked.is_failure else AnnotationLevel.WARNING
    return Annotation(level=level, title=unasked_title(unasked), message="\n".join(unasked_lines(unasked)))


def render_step_summary(results: SessionResults, *, reports: Sequence[CaseReport]) -> str:
    """Return the summary of a session: verdicts, reports of failing cases, tests that did not run, page of figures.

    Args:
        results: The session.
        reports: Its cases with their baselines.
    """
    lines = [f"## Performance on {results.system_title}: {_counts(results)}", ""]
    if results.cases:
        rows = list(map(_row, results.cases))
        lines += [*ready_table(_HEADINGS, rows=rows), ""]
    for report in reports:
        lines += _block(report)
    for each in results.not_run:
        lines.append(f"- not run: {code(each.nodeid)}: {markdown_text(each.reason)}")
    return "\n".join([*lines, "", render_markdown(results)])


def cut_summary(text: str, *, room: int) -> str:
    """Return Markdown in at most room bytes, cut at the end of a line and followed by a note on the cut.

    Args:
        text: Markdown.
        room: Bytes left in the step's summary; if not even the note fits, the result is empty.
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
    if not results.cases:
        return markdown_text(results.why_none) or "no case was measured"
    counts = Counter(map(verdict_word, results.cases))
    return ", ".join(f"{number} {word}" for word, number in counts.items())


def _row(case: CaseResult) -> list[str]:
    head = [markdown_cell(verdict_word(case)), code_cell(case.verdict.case)]
    deciding = deciding_comparison(case.verdict.comparisons, kind=case.verdict.kind)
    if deciding is None:
        return [*head, *["-"] * (len(_HEADINGS) - len(head))]
    metric = METRICS[deciding.metric]
    label = metric.label
    if deciding.anchor:
        label += f" ({deciding.anchor})"
    if deciding.published:
        label += " (published)"
    figures = [
        label,
        metric.format(deciding.baseline),
        metric.format(deciding.now),
        signed_percent(deciding.delta_pct) + side_by_side_text(deciding),
        interval_text(deciding),
        allowed_text(deciding),
        limit_text(deciding.finds_pct),
    ]
    return [*head, *map(markdown_cell, figures)]


def _block(report: CaseReport) -> Iterator[str]:
    case = report.result
    note = case.waived or case.waiver_note or earlier_text(case)
    if case.is_failure:
        text = render_failure(report, width=_BLOCK_WIDTH, color=False)
        title = html_text(f"{verdict_word(case)} {case.verdict.case}")
        yield from (f"<details><summary>{title}</summary>", "", *fenced(text), "", "</details>", "")
    elif note:
        yield from (f"- {verdict_word(case)} {code(case.verdict.case)}: {markdown_text(note)}", "")


def _escaped(text: str) -> str:
    return visible_text(text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A"))


def _escaped_property(text: str) -> str:
    return _escaped(text).replace(":", "%3A").replace(",", "%2C")
