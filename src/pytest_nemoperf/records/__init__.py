"""Dataclasses exchanged between ranks and pytest: steps, metrics, health, fingerprint, profiles."""
