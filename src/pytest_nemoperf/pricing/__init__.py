"""Memory, traffic and cost estimates of a plan. Pure."""
