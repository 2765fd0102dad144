"""Who starts ranks: one file an engine. We write argv and supervision, never a scheduler."""
