"""Accelerators: wrappers around the denoiser that are attached for one run."""
