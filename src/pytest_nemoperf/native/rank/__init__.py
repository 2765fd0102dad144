"""One rank from start to end, the warm server, and the records that a rank writes."""
