"""Lifetimes of processes: helpers, orphans. No torch."""
