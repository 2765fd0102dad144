"""Checks of stored baselines, and of the tests that use them."""
