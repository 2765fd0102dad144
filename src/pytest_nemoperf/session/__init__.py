"""One perf session: planning, launching until a verdict, storing, A/B, progress."""
