"""Demos and sweeps: phases, plans, executors and results."""
