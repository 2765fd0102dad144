"""The model for one process, one file per part; ``native/parallel`` distributes it."""
