"""Methods that run a trained branch beside the model."""
