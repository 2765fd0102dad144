"""FLOPs of a model under named conventions, and the published tables that use them. Pure."""
