"""Model backends: checkpoints, families, networks and how they are called."""
