"""The model as one process computes it, one file a part."""
