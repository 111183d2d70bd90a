"""Diffusion and Gaussian policies, and behaviour cloning."""
