"""Rendering of results as text; no file is written and nothing is judged here."""
