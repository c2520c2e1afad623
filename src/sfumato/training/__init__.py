"""Training of the embedded models, on rendered scenes or your own pictures."""
