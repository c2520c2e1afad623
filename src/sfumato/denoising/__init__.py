"""The model as sampling loops call it: a denoiser with conditions and guidance."""
