"""Launchers: start and supervision of rank processes, one file per launcher; scheduling is left to others."""
