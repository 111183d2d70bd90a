"""Training runs, checkpoints and devices: everything that is not the method."""
