"""Check of a GPU machine in a few minutes: correctness, the one-GPU suite, ceilings, verdicts, fast paths."""
