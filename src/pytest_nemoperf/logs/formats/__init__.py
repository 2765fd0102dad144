"""Formats of known frameworks' logs, one module a preset."""
