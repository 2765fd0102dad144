"""Readers of frameworks' own recipe files."""
