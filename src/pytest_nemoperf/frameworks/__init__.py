"""Who trains: one file a framework, the only place for that framework's names."""
