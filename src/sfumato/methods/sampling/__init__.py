"""Methods that need no training: they change only the sampling loop."""
