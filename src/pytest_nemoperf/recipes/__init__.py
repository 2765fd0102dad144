"""Recipe and system to plan: rules, case ids, overrides, systems. Pure."""
