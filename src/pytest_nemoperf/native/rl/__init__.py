"""Reinforcement learning: the loop over generation, training and refit."""
