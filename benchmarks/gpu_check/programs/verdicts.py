"""Self-test of verdicts: a slowed case is found, and the same case at its own speed passes."""

from __future__ import annotations

import sys
from typing import Any

from gpu_check.findings import Findings
from gpu_check.programs.program import Context, run_program
from gpu_check.programs.sessions import BASELINES, Session, figure, metric, run_session, verdict
from gpu_check.programs.suite import measured_cases

# A GPU's launches scatter by 0.1%; on a shared CPU only a step of four times its length is beyond doubt, and that
# within minutes: by the 25% between days that the catalog expects of CPUs, one launch of a baseline decides nothing.
_INJECT_PCT = {False: 6, True: 300}
_CPU_NOISE = ["-o", "perf_noise=run=5\nsession=5"]
_WITHOUT_A_WORD = frozenset({"INVALID", "INCONCLUSIVE", "NO BASELINE"})


def examine(context: Context, findings: Findings) -> None:
    """Store a baseline unless the suite has, then judge the case slowed, and as it is."""
    inject_pct = _INJECT_PCT[context.is_cpu]
    table = findings.table("Sessions", ["session", "verdict", "exit status", "tokens/s/GPU"])
    if not has_baseline(context):
        stored = run_session(context, "baseline", tests=context.tests, options=["--update-baselines"])
        _add(table, "baseline", stored)
        if stored.exit_status:
            add_sentence(f"no baseline could be stored: {_reasons(stored)}", stored, context, findings)
            if findings.problems:
                return
    # A case may take the launches that its verdict needs.
    options = ["--perf-max-runs=3", *(_CPU_NOISE if context.is_cpu else ())]
    slowed = run_session(context, "slowed", tests=context.tests, options=[f"--perf-inject={inject_pct}%", *options])
    _add(table, f"slowed by {inject_pct}%", slowed)
    _expect(slowed, context, kind="REGRESSED", exit_status=1, findings=findings, name=f"slowed by {inject_pct}%")
    again = run_session(context, "again", tests=context.tests, options=options)
    _add(table, "as it is", again)
    _expect(again, context, kind="PASSED", exit_status=0, findings=findings, name="as it is")


def has_baseline(context: Context) -> bool:
    """Return whether the suite of this check has stored the case's baseline."""
    folder = context.check_folder / BASELINES / context.system
    cases = [case for case in measured_cases(context, stage="suite") if case["nodeid"] in context.tests]
    return any((folder / f"{case['measurement']['case']}.json").exists() for case in cases)


def _add(table: Any, name: str, session: Session) -> None:
    for case in session.cases:
        table.add(name, verdict(case), str(session.exit_status), figure(metric(case, "tokens_per_sec_per_gpu")))


def _expect(session: Session, context: Context, *, kind: str, exit_status: int, findings: Findings, name: str) -> None:
    kinds = [verdict(case) for case in session.cases]
    if kinds != [kind] or session.exit_status != exit_status:
        text = (
            f"{name}: {', '.join(kinds) or 'no verdict'} with exit status {session.exit_status}, "
            f"expected {kind} with {exit_status}: {_reasons(session)}"
        )
        add_sentence(text, session, context, findings)


def add_sentence(text: str, session: Session, context: Context, findings: Findings) -> None:
    """Add a sentence on a session that did not end as expected.

    It is a problem, but not where a CPU in a dry run was too busy to measure: then nothing has been judged.
    """
    is_busy = context.is_cpu and any(verdict(case) in _WITHOUT_A_WORD for case in session.cases)
    (findings.unjudged if is_busy else findings.problems).append(text)


def _reasons(session: Session) -> str:
    return "; ".join(reason for case in session.cases for reason in case["verdict"]["reasons"]) or "see log.txt"


if __name__ == "__main__":
    sys.exit(run_program(examine))
