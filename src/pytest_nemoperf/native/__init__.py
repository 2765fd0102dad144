"""Native training engine on torch; runs inside ranks. No other package imports torch."""
