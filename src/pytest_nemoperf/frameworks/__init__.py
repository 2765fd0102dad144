"""Adapters to training frameworks: one file each, the only place for that framework's names."""
