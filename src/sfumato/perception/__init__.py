"""CLIP models, for ranking, guidance and metrics."""
