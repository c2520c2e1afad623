"""Prompts: weights, long prompts in chunks, and textual inversion, for CLIP's text encoders."""
