"""Published rows of performance pages: reading, contradictions, recipes, baselines."""
