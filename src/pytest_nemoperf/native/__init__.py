"""The native torch engine; runs inside ranks, and alone imports torch."""
