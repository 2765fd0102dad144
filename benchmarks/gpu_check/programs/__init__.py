"""One program a stage: it measures or checks one thing, and leaves findings."""
