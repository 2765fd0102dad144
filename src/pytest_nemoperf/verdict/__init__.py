"""Judging a measurement against a baseline. Pure."""
