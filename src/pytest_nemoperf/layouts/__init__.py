"""Parallel degrees, pipeline schedules, sharding of weights. Pure arithmetic."""
