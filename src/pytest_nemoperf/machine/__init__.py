"""Identity and monitoring of the host and its GPUs, git, the host lock, CI detection."""
