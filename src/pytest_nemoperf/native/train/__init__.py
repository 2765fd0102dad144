"""Pre-training: data, the loop over steps, the optimizer step."""
