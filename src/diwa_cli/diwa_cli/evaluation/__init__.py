"""Policies, world models and recordings, evaluated in the simulator."""
