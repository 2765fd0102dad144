"""Launchers: start and supervision of rank processes, one file per launcher; none of them is a scheduler."""
