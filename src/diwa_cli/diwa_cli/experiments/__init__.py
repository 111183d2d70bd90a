"""Experiments on what limits a run's gain."""
