"""Stored baselines: values, files, lookup, profiles."""
