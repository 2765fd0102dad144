"""Performance pages: templates with generated blocks, releases."""
