"""The stages of one edit, in order: resolving, preparing, encoding, sampling, finishing."""
