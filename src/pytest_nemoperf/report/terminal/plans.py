"""A priced plan as text: settings, memory by pipeline stage, traffic by axis, expected time."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.layouts.layout import TRAINING_KEYS
from pytest_nemoperf.pricing.price import MemoryRange, Price
from pytest_nemoperf.pricing.rough_time import RoughTime
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import format_number, format_time, time_unit
from pytest_nemoperf.report.case_names import names_within, short_names
from pytest_nemoperf.report.cells import bytes_text, elapsed_text, flops_text
from pytest_nemoperf.report.console import align
from pytest_nemoperf.report.terminal.case_table import CaseColumn, case_table, name_lines
from pytest_nemoperf.report.terminal.rollouts import NOT_MODELLED, generation_lines, rollout_facts
from pytest_nemoperf.results.dry_run import DryRun, PricedCase, SuiteCost
from pytest_nemoperf.visible import visible_text

_WIDTH = 80  # of redirected output, which has no terminal to ask
_NAME_INDENT = 4
_BYTES_PER_GB = 10**9  # of data sheets
_NEUTRAL = {"pp_schedule": "1f1b", "cp_comm": "all_gather", "sequence_parallel": True, "shard_optimizer": False}
_MEMORY_KINDS = (
    "weights",
    "gradients",
    "optimizer",
    "reference",
    "value_model",
    "activations",
    "transient",
    "total",
    "generating",
)
_ONLY_RL = ("reference", "value_model", "generating")
_UNSTATED_TITLES = {"recompute": "recomputation", "shard_optimizer": "sharding of the optimizer's states"}
_PUBLISHED_MARK = "published"
_ESTIMATE_MARK = "~"
_DRY_RUN_HEADS = (
    (("", "fits"), 0),
    (("", "memory"), 0),
    (("model", "FLOPs"), 1),
    (("", "bubble"), 2),
    (("expected", "step"), 0),
)
"""Heading and rank of each column, see CaseColumn."""


def render_price(price: Price, *, system_title: str) -> str:
    """Return a priced plan as text that ends with a newline; lines are folded at 80 columns, case ids excepted."""
    parts = [
        f"{price.plan.case}\n",
        _facts_text(_facts(price, system_title=system_title)),
        _memory_text(price),
        _traffic_text(price),
        _facts_text(_time_facts(price)),
    ]
    if price.plan.rl is not None:
        parts.append(NOT_MODELLED)
    return visible_text("\n".join(filter(None, parts)))


def render_dry_run(dry_run: DryRun, *, written: Sequence[str], width: int = _WIDTH, has_ids: bool = False) -> str:
    """Return the report of a dry run: one line a case, reasons of the others, written files.

    Args:
        dry_run: The dry run.
        written: Paths of the reports that were written.
        width: Columns; only a path or an id may be longer.
        has_ids: Add the full id and the time-out of each case.
    """
    names = short_names((case.price.plan.case, case.nodeid) for case in dry_run.cases)
    names = names_within(names, width=width - _NAME_INDENT)
    lines = [f"dry run on {dry_run.system} ({dry_run.system_title}): nothing was launched"]
    if dry_run.changes:
        lines.append(f"cases are changed by --perf-set {dry_run.changes}")
    if dry_run.cases:
        lines += ["", *_dry_run_table(dry_run.cases, names=names, width=width)]
    lines += _range_lines(dry_run.cases)
    lines += _estimate_lines(dry_run.cases)
    lines += _unsupported_lines(dry_run.cases, names=names, width=width)
    lines += _note_lines(dry_run.cases, names=names)
    reasons = [(test.reason, test.nodeid) for test in dry_run.not_priced]
    lines += _by_reason_lines("not priced", reasons, width=width)
    if dry_run.cost is not None:
        lines += ["", *_cost_lines(dry_run.cost, cases=dry_run.cases)]
    if has_ids and names:
        lines += ["", "case ids:", *[f"  {name}: {case}" for case, name in names.items()]]
        lines += ["", "time-outs:", *_time_out_lines(dry_run.cases, names=names)]
    lines.append("")
    for path in written:
        lines.append(f"written: {path}")
    return visible_text("\n".join(_folded(lines, width=width))).rstrip()


def _folded(lines: Sequence[str], *, width: int) -> Iterator[str]:
    """Yield lines folded between words, a continued one indented two columns more than it begins."""
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        if len(line) <= width:
            yield line
            continue
        yield from textwrap.wrap(
            line,
            width,
            subsequent_indent=f"{indent}  ",
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )


def _range_lines(cases: Sequence[PricedCase]) -> Iterator[str]:
    """Yield explanations of memory that is printed as a range, or counted from below; nothing if none is."""
    if any(case.price.memory_range is not None for case in cases):
        yield ""
        yield "memory from .. to: over settings that the recipe's source does not state;"
        yield "  yes: it fits with any of them, ?: it may fit with some, and its source ran it"
    for uncounted in dict.fromkeys(case.price.uncounted for case in cases):
        if uncounted:
            yield ""
            yield from textwrap.wrap(f"fits ?: {uncounted}", _WIDTH, subsequent_indent="  ")


def _unsupported_lines(cases: Sequence[PricedCase], *, names: Mapping[str, str], width: int) -> Iterator[str]:
    """Yield each reason that cases can't run here, above the cases; nothing if all can."""
    reasons = []
    for case in cases:
        if case.price.unsupported:
            reasons.append((case.price.unsupported, names[case.price.plan.case]))
    yield from _by_reason_lines("priced, but not runnable here", reasons, width=width)


def _by_reason_lines(heading: str, reasons: Iterable[tuple[str, str]], *, width: int) -> Iterator[str]:
    """Yield a heading and each reason once, above the names that it holds for; nothing without any."""
    by_reason: dict[str, list[str]] = {}
    for reason, name in reasons:
        by_reason.setdefault(reason, []).append(name)
    if by_reason:
        yield ""
        yield f"{heading}:"
    for reason, own in by_reason.items():
        yield f"  {reason}"
        for line in name_lines(own, width=width - _NAME_INDENT):
            yield f"    {line}"


def _time_out_lines(cases: Sequence[PricedCase], *, names: Mapping[str, str]) -> Iterator[str]:
    for case in cases:
        plan = case.price.plan
        yield f"  {names[plan.case]}: {_time_out_text(plan)}"


def _time_out_text(plan: Plan) -> str:
    return f"{plan.timeout_sec:g} s ({plan.timeout_basis})"


def _note_lines(cases: Sequence[PricedCase], *, names: Mapping[str, str]) -> Iterator[str]:
    """Yield the notes of each case below its name; nothing if there are none."""
    noted = [case.price.plan for case in cases if case.price.plan.notes]
    if noted:
        yield ""
        yield "notes:"
    for plan in noted:
        yield f"  {names[plan.case]}"
        for note in plan.notes:
            yield f"    {note}"


def _estimate_lines(cases: Sequence[PricedCase]) -> Iterator[str]:
    """Yield the basis of each estimated step time once; nothing if there are none."""
    bases: dict[str, None] = {}
    for case in cases:
        if case.price.estimated is not None:
            bases[case.price.estimated.basis] = None
    if bases:
        yield ""
        yield f"{_ESTIMATE_MARK}: estimated, never measured; FLOPs of a step at:"
    for basis in bases:
        yield f"  {basis}"


def _cost_lines(cost: SuiteCost, *, cases: Sequence[PricedCase]) -> Iterator[str]:
    is_cuda = all(case.price.plan.device == "cuda" for case in cases)
    unit = "GPU-hours" if is_cuda else "process-hours"
    if not cost.num_known:
        yield f"{unit} of the suite: unknown, for no case has a stored, published or estimated step time"
        return
    hours = format_number(cost.gpu_hours + cost.estimated_gpu_hours)
    estimated = ""
    if cost.num_estimated:
        estimated = f" ({format_number(cost.estimated_gpu_hours)} of them estimated)"
    yield f"{unit} of the suite's steps: {hours}{estimated}, for {count_text(cost.num_known, 'case')}"
    estimated = f", {cost.num_estimated:,} estimated" if cost.num_estimated else ""
    yield (
        f"  step times: {cost.num_stored:,} from stored baselines, {cost.num_published:,} from published rows"
        f"{estimated}; {count_text(cost.num_unknown, 'case')} without one"
    )
    if all(case.num_launches == 1 for case in cases):
        yield "  warm-up and measured steps of one launch a case; not counted: further launches, the time to start"
    else:
        yield "  warm-up and measured steps of every launch that makes a baseline; the time to start is not counted"
    yield from _launch_lines(cost, cases=cases, unit="GPU" if is_cuda else "process")


def _launch_lines(cost: SuiteCost, *, cases: Sequence[PricedCase], unit: str) -> Iterator[str]:
    """Yield the time of one launch of each case, the least that judges it, by GPUs; nothing if none fits."""
    if not cost.launches:
        return
    startups = [case.price.startup_sec for case in cases if case.launch_sec is not None]
    if None in startups:
        counted = "without the time to start where it is not known"
    else:
        counted = f"with {min(map(float, filter(None, startups))):g} s or more to start each, as on one H100"
    yield f"one launch of each case, {counted}:"
    for launches in cost.launches:
        gpus = count_text(launches.gpus, unit)
        text = f"  {gpus}: {elapsed_text(launches.sec)} for {count_text(launches.num_cases, 'case')}"
        if launches.low_sec < launches.high_sec:
            text += f" ({elapsed_text(launches.low_sec)} to {elapsed_text(launches.high_sec)})"
        yield text


def _facts(price: Price, *, system_title: str) -> Iterator[tuple[str, str]]:
    plan = price.plan
    unit = "step"
    of_training = at_most = ""
    if plan.rl is not None:
        unit = "update"
        of_training = " of training"
    if plan.has_varying_lengths or (plan.rl is not None and not plan.rl.has_pinned_lengths):
        at_most = " at most"
    if price.unsupported is not None:
        yield "not runnable here", price.unsupported
    yield "system", f"{plan.system} ({system_title})"
    yield "nodes", str(plan.num_nodes)
    yield "layout", _layout_text(plan)
    if plan.rl is not None:
        yield from rollout_facts(plan, rl=plan.rl)
    yield f"sequences per {unit}", f"{plan.global_batch_size} (micro batches of {plan.micro_batch_size})"
    yield "grad accumulation", str(plan.grad_accum_steps)
    yield "recomputation", str(plan.recompute)
    yield "tokens per step", f"{plan.tokens_per_step:,}{at_most}"
    active = ""
    if price.num_active_parameters != price.num_parameters:
        active = f" ({price.num_active_parameters:,} active)"
    yield "parameters", f"{price.num_parameters:,}{active}"
    yield "FLOPs per token", f"{plan.flops_per_token:.6g} ({plan.flops_convention})"
    yield "FLOPs per step", f"{price.flops_per_step:.6g}{of_training}{at_most}"
    if plan.peak_tflops is None:
        yield "peak of one GPU", "unknown"
    else:
        yield "peak of one GPU", f"{plan.peak_tflops:g} TFLOP/s ({plan.precision}, dense)"
    bubble = "no pipeline"
    if plan.layout.pp > 1:
        bubble = f"{_bubble_text(price)} of the {unit}"
    yield "pipeline bubble", bubble
    yield "steps", f"{plan.warmup_steps} warm-up + {plan.steps} measured"
    yield "time-out", _time_out_text(plan)
    if plan.notes:
        yield "notes", "; ".join(plan.notes)


def _layout_text(plan: Plan) -> str:
    """Return the parallel degrees and choices that differ from their neutral value."""
    shown = []
    for key in TRAINING_KEYS:
        value = getattr(plan.layout, key)
        if key == "gpus" or value != _NEUTRAL.get(key, 1):
            shown.append(f"{key}={str(value).lower()}")
    return ", ".join(shown)


def _bubble_text(price: Price) -> str:
    if price.plan.layout.pp == 1:
        return "-"
    return f"{100 * price.bubble_fraction:.1f}%"


def _memory_text(price: Price) -> str:
    lines = [
        *align(_memory_rows(price), num_left=1),
        *generation_lines(price),
        *_copies_lines(price),
        _fit_text(price),
        *textwrap.wrap(price.uncounted, _WIDTH - 2),
        "activations and transient are estimates",
    ]
    owner = "the native engine" if price.memory_rules is None else price.memory_rules.owner
    text = "\n  ".join([f"memory of the fullest rank of a stage, as {owner}'s:", *lines])
    return f"{text}\n"


def _memory_rows(price: Price) -> list[list[str]]:
    """Return a row per kind of memory, a column per pipeline stage; RL's kinds only if they are not zero."""
    ranks = ["pipeline stage"]
    layers = ["layers"]
    parameters = ["parameters"]
    for stage in price.stages:
        ranks.append(str(stage.pp_rank))
        if stage.pp_rank == price.fullest_stage and len(price.stages) > 1:
            ranks[-1] += " (fullest)"
        layers.append(str(stage.num_layers))
        parameters.append(f"{stage.num_parameters:,}")
    rows = [ranks, layers, parameters]
    for kind in _MEMORY_KINDS:
        if kind in _ONLY_RL and not getattr(price.fullest, kind):
            continue
        row = [kind.replace("_", " ")]
        if kind == "generating":
            row = ["total, generating"]
        for stage in price.stages:
            row.append(bytes_text(getattr(stage, kind)))
        rows.append(row)
    return rows


def _copies_lines(price: Price) -> Iterator[str]:
    """Yield the cost of copied key-value heads; nothing if each is on one rank."""
    copies = price.kv_copies
    plan = price.plan
    if copies is None:
        return
    share = 100 * copies.flops_per_step / price.flops_per_step
    yield (
        f"tp={plan.layout.tp} is more than num_kv_heads={plan.model.num_kv_heads}: "
        f"each key-value head is on {copies.num_copies} ranks;"
    )
    yield (
        f"the copies are {bytes_text(copies.weights)} of weights, {bytes_text(copies.gradients)} of gradients, "
        f"{bytes_text(copies.optimizer)} of optimizer,"
    )
    yield f"send {bytes_text(copies.sent_bytes_per_step)} a step over tp to sum their gradients,"
    yield f"and compute {copies.flops_per_step:.6g} FLOPs a step beside the model's ({share:.2g}% of these)"


def _fit_text(price: Price) -> str:
    total = price.peak_bytes
    capacity = price.capacity_bytes
    if price.memory_range is not None:
        return _range_fit_text(price, memory=price.memory_range)
    if capacity is None:
        return f"{bytes_text(total)} are needed; the memory of {price.plan.system} is not known"
    if price.is_fitting is None:
        return (
            f"{bytes_text(total)} of {_capacity_text(capacity)} ({100 * total / capacity:.0f}%) at least; not counted:"
        )
    relation = "fits into" if price.is_fitting else "does not fit into"
    return f"{bytes_text(total)} {relation} {_capacity_text(capacity)} ({100 * total / capacity:.0f}%)"


def _capacity_text(capacity: int) -> str:
    """Return the memory of a GPU, in brackets the decimal size that its data sheet prints."""
    return f"the {bytes_text(capacity)} ({capacity / _BYTES_PER_GB:g} GB) of one GPU"


def _range_fit_text(price: Price, *, memory: MemoryRange) -> str:
    """Return the range of memory over unstated settings, and its relation to the GPU's."""
    settings = " and ".join(_UNSTATED_TITLES[name] for name in memory.unstated)
    lines = [
        f"{_range_text(memory)}: the recipe's source does not state",
        f"  {settings};",
        f"  the rows above are with the recipe's own choice, {bytes_text(price.peak_bytes)}",
    ]
    capacity = price.capacity_bytes
    if capacity is None:
        return "\n  ".join([*lines, f"the memory of {price.plan.system} is not known"])
    relation = "all of it fits into"
    if memory.low_bytes > capacity:
        relation = "by these estimates even the least is more than"
    elif memory.high_bytes > capacity:
        relation = "a part of it fits into"
    elif price.uncounted:
        relation = "but for what is not counted, all of it fits into"
    shares = f"{100 * memory.low_bytes / capacity:.0f}% .. {100 * memory.high_bytes / capacity:.0f}%"
    return "\n  ".join([*lines, f"{relation} {_capacity_text(capacity)} ({shares})"])


def _range_text(memory: MemoryRange) -> str:
    """Return both ends in the unit of the larger one: ``27 .. 95 GiB``."""
    low, _, low_unit = bytes_text(memory.low_bytes).partition(" ")
    high, _, high_unit = bytes_text(memory.high_bytes).partition(" ")
    if low_unit == high_unit:
        return f"{low} .. {high} {high_unit}"
    return f"{low} {low_unit} .. {high} {high_unit}"


def _traffic_text(price: Price) -> str:
    if not price.traffic:
        return ""
    rows = [("axis", "ranks", "sent per rank and step")]
    for axis in price.traffic:
        rows.append((axis.axis, str(axis.degree), bytes_text(axis.bytes_per_step)))
    return "\n".join([*align(rows, num_left=1), ""])


def _time_facts(price: Price) -> Iterator[tuple[str, str]]:
    expected = price.expected
    if expected is None:
        yield "expected step time", f"unknown: {price.no_expectation}"
        estimated = price.estimated
        if estimated is not None:
            yield (
                "estimated step time",
                f"{format_time(estimated.step_time_sec)} ({_estimate_range_text(estimated)}), never measured: "
                f"{estimated.basis}",
            )
        return
    rate = format_number(expected.tokens_per_sec_per_gpu)
    source = f"{count_text(expected.num_runs, 'run')} of {expected.recorded}"
    if expected.published:
        source = f"published in {expected.published}"
    yield "expected step time", f"{format_time(expected.step_time_sec)}, {rate} tokens/sec/GPU ({source})"
    if expected.run_tokens is not None and expected.run_hours is not None and expected.run_gpu_hours is not None:
        yield (
            f"{expected.run_tokens:,} tokens",
            f"{expected.run_hours:,.1f} hours, {expected.run_gpu_hours:,.0f} GPU-hours at that rate",
        )


def _dry_run_table(cases: Sequence[PricedCase], *, names: Mapping[str, str], width: int) -> Iterator[str]:
    cells = zip(*[_dry_run_row(case.price) for case in cases], strict=True)
    columns = []
    for (heading, rank), own in zip(_DRY_RUN_HEADS, cells, strict=True):
        columns.append(CaseColumn(heading=heading, cells=own, rank=rank, is_text=heading[1] == "fits"))
    table = case_table([case.price.plan.case for case in cases], names=names, columns=columns, width=width)
    yield from table.head
    yield from table.rows


def _dry_run_row(price: Price) -> tuple[str, ...]:
    fits = {True: "yes", False: "NO", None: "?"}[price.is_fitting]
    flops = flops_text(price.flops_per_step)
    memory = bytes_text(price.peak_bytes)
    if price.memory_range is not None:
        memory = _range_text(price.memory_range)
    return fits, memory, flops, _bubble_text(price), step_time_text(price)


def step_time_text(price: Price) -> str:
    """Return the step time of a baseline or a page, or the marked range of an estimate; a dash without any."""
    expected = price.expected
    if expected is not None:
        mark = f" {_PUBLISHED_MARK}" if expected.published else ""
        return f"{format_time(expected.step_time_sec)}{mark}"
    if price.estimated is None:
        return "-"
    return f"{_ESTIMATE_MARK} {_estimate_range_text(price.estimated)}"


def _estimate_range_text(estimated: RoughTime) -> str:
    """Return both ends of an estimate in the unit of the larger one, two digits each: ``580 .. 760 ms``."""
    size, unit = time_unit(estimated.high_sec)
    ends = [format_number(float(f"{seconds / size:.2g}")) for seconds in (estimated.low_sec, estimated.high_sec)]
    return f"{' .. '.join(ends)} {unit}"


def _facts_text(facts: Iterator[tuple[str, str]]) -> str:
    rows = dict(facts)
    width = max(map(len, rows)) + 2
    text = ""
    for name, value in rows.items():
        lines = textwrap.wrap(value, _WIDTH - width, break_long_words=False, break_on_hyphens=False)
        text += f"{name:<{width}}" + f"\n{' ' * width}".join(lines) + "\n"
    return text
