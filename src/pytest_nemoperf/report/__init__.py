"""Rendering of values as text. Shared cells and tables here, each kind of output in its part."""
