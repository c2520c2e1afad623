"""Region mode: the denoiser computes the surroundings of the mask alone, and reads the rest from features of the source."""
