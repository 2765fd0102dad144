"""Other engines to compare with: each a script beside this one, run in a separate process on request.

A script gets the workload as JSON in its only argument; every line it reads is a number of rounds, every line it
writes is a JSON list with one object a round. One process for a whole benchmark: imports and the first, slower rounds
are paid once, and between its turns it waits without using the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_nemoperf.machine.processor import available_cores
from pytest_nemoperf.native.rl.generate.tasks import make_task
from pytest_nemoperf.recipes.recipe import Plan


class Peer:
    """A running script."""

    def __init__(self, script: str, *, workload: Mapping[str, Any], log: Path, python: str) -> None:
        self._script = script
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, str(Path(__file__).with_name(script)), json.dumps(workload)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(workload["num_threads"]), "HF_HUB_OFFLINE": "1"},
            )

    def run(self, rounds: int) -> list[dict[str, Any]]:
        """Run rounds; return the measurements of each.

        Raises:
            RuntimeError: If the process ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: PT018 (both are pipes)
        answer = ""
        if self._process.poll() is None:
            print(rounds, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._script} ended; its output ends: {self._log.read_text()[-2000:]}")
        measured: list[dict[str, Any]] = json.loads(answer)
        return measured

    def close(self) -> None:
        """Close the process's input and wait for its end."""
        self._process.communicate(timeout=60)


@contextmanager
def started_peer(
    script: str, *, workload: Mapping[str, Any], folder: Path, python: str = sys.executable
) -> Iterator[Peer]:
    """Start a script, and end it afterwards.

    Args:
        script: Name of a file in this folder.
        workload: See workload_of.
        folder: Takes its log.
        python: Interpreter with the engine installed.
    """
    peer = Peer(script, workload=workload, log=folder / f"{script}.log", python=python)
    try:
        yield peer
    finally:
        peer.close()


def workload_of(plan: Plan) -> dict[str, Any]:
    """Return a plan's workload as the scripts take it, with the prompts of all its steps in order."""
    rl = plan.rl
    model = plan.model
    assert rl is not None
    prompts = []
    for step in range(plan.total_steps):
        for number in range(rl.num_prompts_per_step):
            task = make_task(rl, seed=plan.seed, step=step, round_number=0, prompt=number)
            prompts.append(task.prompt)
    return {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_layers": model.num_layers,
        "num_heads": model.num_heads,
        "num_kv_heads": model.num_kv_heads,
        "head_dim": model.head_dim,
        "norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "seq_len": plan.seq_len,
        "num_prompts_per_step": rl.num_prompts_per_step,
        "num_generations_per_prompt": rl.num_generations_per_prompt,
        "response_len": rl.max_response_len,
        "kl_coef": rl.algorithm_config.kl_coef,
        "learning_rate": rl.learning_rate,
        "prompts": prompts,
        "seed": plan.seed,
        "num_threads": available_cores(),
    }
