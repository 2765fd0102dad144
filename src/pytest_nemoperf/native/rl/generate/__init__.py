"""Generation of rollouts, by the native model or by vLLM."""
