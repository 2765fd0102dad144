"""Settings of frameworks that a plan becomes: recipe files, overrides and command lines, one file a framework."""
