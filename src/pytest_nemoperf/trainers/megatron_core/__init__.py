"""Megatron-Core in our ranks: its model, schedules and optimizer, fed and timed as the native engine is."""
