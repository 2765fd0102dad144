"""Programs and data for other training frameworks, run in their interpreters: they make a plan's run theirs."""
