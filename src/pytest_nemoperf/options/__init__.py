"""Command-line and ini options, markers and hooks: declaration, parsing, validation."""
