"""Architectures, the catalog, twins, weights. Pure."""
