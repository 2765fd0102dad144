"""The trainer itself, a program that could be any other: it reads the plan and writes one JSON line a step."""

import json
import pathlib
import sys
import time


def main():
    plan_path = pathlib.Path(sys.argv[1])
    plan = json.loads(plan_path.read_text())
    weights = [0.0] * 20_000
    with plan_path.with_name("steps.jsonl").open("w") as file:
        for step in range(plan["warmup_steps"] + plan["steps"]):
            start = time.perf_counter()
            for index, weight in enumerate(weights):
                weights[index] = weight + 1e-3 * (1.0 - weight)
            record = {
                "step": step,
                "step_time_sec": time.perf_counter() - start,
                "tokens": plan["global_batch_size"] * plan["seq_len"],
                "loss": (1.0 - weights[0]) ** 2,
            }
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
