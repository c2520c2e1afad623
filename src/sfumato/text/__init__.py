"""Prompts: what their characters mean, and how long ones, weights and learned words reach CLIP's text encoders."""
