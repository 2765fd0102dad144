"""Results of a session as dataclasses, shared by reports and files."""
