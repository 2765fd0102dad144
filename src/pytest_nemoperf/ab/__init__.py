"""A/B comparison of two revisions: checkouts, import paths, rounds, ratios, verdict."""
