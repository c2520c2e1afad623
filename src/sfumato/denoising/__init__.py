"""Interface between the sampling loops and the models: denoiser, conditions, guidance."""
