"""Parallelism, one file an axis, and the order in which the axes are applied."""
