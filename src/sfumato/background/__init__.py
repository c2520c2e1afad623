"""Background reconstruction (Blended Latent Diffusion, arXiv:2206.02779, section 4.2) and its alternatives."""
