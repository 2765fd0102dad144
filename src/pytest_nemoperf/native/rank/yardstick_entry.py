"""One rank that times the yardstick alone, beside a run of another framework; see runs/yardstick.py."""

from __future__ import annotations

import os
import sys

import torch.distributed as dist

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.native.rank.entry import join_ranks, read_environment, read_plan
from pytest_nemoperf.native.rank.output import write_atomic, write_error
from pytest_nemoperf.native.rank.yardstick import gather_yardsticks, measure_yardstick
from pytest_nemoperf.records.yardstick import YARDSTICK_FILE


def main() -> None:
    """Time the yardstick on this rank, at the precision of the plan in the run directory; rank 0 writes the file.

    Raises:
        LaunchError: If the environment is incomplete.
        Exception: Any error of the rank, after it was written to its error file.
    """
    env = read_environment()
    try:
        plan = read_plan(env)
        device = join_ranks(plan, env=env)
        times = measure_yardstick(device, precision=plan.precision)
        yardsticks = gather_yardsticks(times, device=device)
        if env.rank == 0:
            write_atomic(env.run_dir / YARDSTICK_FILE, to_json(yardsticks))
        dist.destroy_process_group()
    except Exception as error:
        write_error(env.run_dir, rank=env.rank, error=error)
        raise


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as in entry.py: the interpreter's teardown races with gloo's threads
