"""Output while a session runs: header, progress, one line per run and per case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.recipes.systems import System
from pytest_nemoperf.records.metrics import METRICS, STEP_TIME_SEC, TOKENS_PER_SEC_PER_GPU, format_number, format_time
from pytest_nemoperf.report.cells import (
    change_text,
    deciding_comparison,
    earlier_text,
    elapsed_text,
    figure_text,
    figures_text,
    injected_mark,
    injection_text,
    shorten_middle,
    side_by_side_text,
    terms_text,
    verdict_word,
)
from pytest_nemoperf.report.resolution import resolution_text
from pytest_nemoperf.results.cases import CaseReport
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from pytest_nemoperf.visible import plain_text

_MIN_CASE_WIDTH = 12
_CUT = "..."


def render_header(
    *,
    system: System,
    how: str,
    devices: str,
    baselines_dir: str,
    num_baselines: int,
    num_local: int,
    tolerances: Mapping[str, float],
    finds: Mapping[str, float],
    runs: int,
    inject_pct: float,
    changes: str = "",
    frameworks: Sequence[str] = (),
    is_dry_run: bool = False,
    replay_of: str = "",
    comparing: str = "",
    elsewhere: Sequence[str] = (),
    is_published: bool = False,
) -> list[str]:
    """Return the lines pytest prints above a session.

    Args:
        system: System of the session.
        how: ``detected``, ``asked for`` or ``of the stored runs``.
        devices: Devices of this machine, e.g. ``8x NVIDIA H100 80GB HBM3`` or ``no NVIDIA GPU``.
        baselines_dir: Folder of the system's baselines.
        num_baselines: Number of baselines in it.
        num_local: Number of baselines in this machine's own store.
        tolerances: Allowed worsening in percent by judged metric.
        finds: Worsening to be found, in percent by judged metric.
        runs: Launches of a case at most.
        inject_pct: Self-test delay in percent; 0 for a real session.
        changes: Value of --perf-set; empty if none.
        frameworks: Values of --perf-framework.
        is_dry_run: Nothing is launched.
        replay_of: Folder of the stored runs that are judged again; empty if runs are launched.
        comparing: Lines of ab_header instead of those on baselines; empty without --perf-ab.
        elsewhere: Sentences on other folders with baselines, shown if baselines_dir has none.
        is_published: Cases are judged by rows of published pages.
    """
    launches = ""
    if not (is_dry_run or replay_of or comparing):
        launches = f", at most {count_text(runs, 'launch')} to judge a case"
    lines = [f"perf: system {system.name} ({how}: {devices}){launches}"]
    if comparing:
        lines.append(comparing)
    elif is_published:
        terms = terms_text(tolerances, finds=finds)
        lines.append(f"perf: judged by matching rows of published pages, nothing is stored, {terms}")
    else:
        baselines = f"{count_text(num_baselines, 'baseline')} in {baselines_dir}"
        if num_local:
            baselines += f" and {num_local:,} of this machine's own"
        lines.append(f"perf: {baselines}, {terms_text(tolerances, finds=finds)}")
        if not num_baselines:
            for text in elsewhere:
                lines.append(f"perf: {text}")
    if changes:
        lines.append(
            f"perf: recipes are changed by --perf-set {changes}; such cases have ids of their own, ending in +set"
        )
    if frameworks:
        lines.append(f"perf: each recipe runs in {', '.join(frameworks)} (--perf-framework), one after another")
    if is_dry_run:
        lines.append("perf: dry run: cases are priced, nothing is launched")
    if replay_of:
        lines.append(f"perf: replay of {replay_of}: stored runs are judged again, nothing is launched or stored")
    if inject_pct:
        lines.append(f"perf: {injection_text(inject_pct)}")
    return lines


def render_progress(
    *,
    case: str,
    run: int,
    num_runs: int,
    step: int,
    num_steps: int,
    tokens_per_sec_per_gpu: float | None,
    elapsed_sec: float,
    width: int,
    step_time_sec: float | None = None,
    inject_pct: float = 0.0,
) -> str:
    """Return the progress line of a run in progress, at most width characters long.

    Args:
        case: Name of the case; shortened in the middle if it does not fit.
        run: This run, counted from 1.
        num_runs: Runs of the case at most.
        step: Finished steps, warm-up included; 0 while the ranks start.
        num_steps: Steps of the run, warm-up included.
        tokens_per_sec_per_gpu: Rate of the last step; None before the first one, or if its tokens are not known.
        elapsed_sec: Since the run was launched.
        width: Columns.
        step_time_sec: Time of the last step, shown if there is no rate.
        inject_pct: Self-test delay in percent; 0 for a real run.
    """
    state = f"step {step}/{num_steps}" if step else "starting"
    facts = [f"run {run}, at most {num_runs}", state]
    if tokens_per_sec_per_gpu is not None:
        facts.append(f"{format_number(tokens_per_sec_per_gpu)} {TOKENS_PER_SEC_PER_GPU.unit}")
    elif step_time_sec is not None:
        facts.append(f"{format_time(step_time_sec)} a step")
    facts.append(elapsed_text(elapsed_sec))
    tail = ": " + ", ".join(facts)
    head = injected_mark(inject_pct)
    room = max(width - len(head) - len(tail), _MIN_CASE_WIDTH)
    return f"{head}{shorten_middle(case, width=room)}{tail}"[:width]


def repaint(drawn: str, *, line: str) -> str:
    """Return the characters that turn a line that ends at the cursor into another, as few as the two allow.

    Args:
        drawn: Text of the terminal's line.
        line: Text to stand there instead; empty to clear the line.
    """
    if drawn == line:
        return ""
    num_equal = 0
    for before, after in zip(drawn, line, strict=False):
        if before != after:
            break
        num_equal += 1
    num_back = len(drawn) - num_equal
    start = "\r" + line[:num_equal]
    if num_back == 0:
        start = ""
    elif num_equal:
        start = min(start, f"\x1b[{num_back}D", "\b" * num_back, key=len)
    end = "\x1b[K" if len(line) < len(drawn) else ""  # erases from the cursor to the end of the line
    return start + line[num_equal:] + end


def render_run_line(
    *,
    case: str,
    run: int,
    measured: Run,
    elapsed_sec: float,
    inject_pct: float = 0.0,
) -> str:
    """Return the log line of a finished run.

    Args:
        case: Case id.
        run: This run, counted from 1.
        measured: The run.
        elapsed_sec: From launch to end.
        inject_pct: Self-test delay in percent; 0 for a real run.
    """
    facts = [figures_text([measured])]
    step_time = measured.metrics.get(STEP_TIME_SEC.name)
    if step_time is not None:
        facts.append(f"step {format_time(step_time)}")
    if measured.num_warmup_dropped:
        facts.append(f"{count_text(measured.num_warmup_dropped, 'more warm-up step')} dropped")
    facts.append(f"took {elapsed_text(elapsed_sec)}")
    return f"{injected_mark(inject_pct)}{case}: run {run}: {', '.join(filter(None, facts))}"


def render_case_line(report: CaseReport, *, name: str = "", width: int | None = None) -> str:
    """Return the line of a judged case: verdict, case, figure and change, notes, resolution.

    Args:
        report: The case.
        name: Short name of the case; empty for its id.
        width: Columns of a terminal: facts at the end that do not fit are left out, and what is still too long is cut,
            for the summary has them all. None for a log, which has all of them on one line for searches.
    """
    result = report.result
    verdict = result.verdict
    word = verdict.kind if width is None else verdict_word(result)
    head = f"{injected_mark(result.measurement.inject_pct)}{word} "
    name = name or verdict.case
    notes = list(filter(None, (result.waived, result.waiver_note, earlier_text(result))))
    deciding = deciding_comparison(verdict.comparisons, kind=verdict.kind)
    if verdict.kind is VerdictKind.INVALID:
        facts = ["; ".join(verdict.reasons), *notes]
    elif deciding is not None:
        figure, *details = _comparison_facts(deciding)
        facts = [figure, *notes, *details]
    else:
        facts = [figures_text(result.measurement.runs), *notes]
    facts = list(map(plain_text, filter(None, facts)))
    if width is None:
        return f"{head}{name}: {'; '.join(facts)}"
    while len(facts) > 1 and len(f"{head}{name}: {'; '.join(facts)}") > width:
        facts.pop()
    tail = ": " + "; ".join(facts)
    room = max(width - len(head) - len(tail), min(len(name), width // 3))
    line = f"{head}{shorten_middle(name, width=room)}{tail}"
    return line if len(line) <= width else f"{line[: width - len(_CUT)]}{_CUT}"


def _comparison_facts(comparison: Comparison) -> Iterator[str]:
    name = comparison.metric
    then = METRICS[name].format(comparison.baseline)
    if comparison.anchor:
        then += f" of anchor {comparison.anchor}"
    beside = side_by_side_text(comparison)
    change = change_text(comparison.delta_pct, metric=name)
    yield f"{figure_text(comparison.now, metric=name)}, {change} against {then}{beside}"
    if comparison.slow_steps_loss_pct is not None:
        yield f"{comparison.slow_steps_loss_pct:.1f}% lost with slow steps counted"
    resolution = resolution_text(comparison)
    if resolution:
        yield resolution
