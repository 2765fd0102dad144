"""The pytest plugin: entry point, hooks, the ``perf`` fixture, cases of pytest-benchmark, GitHub Actions."""
