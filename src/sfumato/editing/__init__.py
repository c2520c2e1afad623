"""The stages of one edit, in order: resolving, preparing, sampling, finishing."""
