"""Text for the terminal: progress, summary, failures, plans, profiles."""
