"""Markdown tables for performance pages."""
