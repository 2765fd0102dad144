"""Training on rollouts: advantages, batches, objective, policy updates."""
