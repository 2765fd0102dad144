"""The ``nemoperf`` command, one file a subcommand."""
