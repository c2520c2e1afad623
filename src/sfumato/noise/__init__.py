"""Noise: levels, plans of a run, solvers, the DDPM chain, and random generators."""
