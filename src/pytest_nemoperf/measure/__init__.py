"""Records to measurements. Pure."""
