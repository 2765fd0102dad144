"""Text for CI systems: GitHub Actions, JUnit."""
