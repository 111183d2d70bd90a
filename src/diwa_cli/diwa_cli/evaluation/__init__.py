"""Policies, world models and recordings, judged in the simulator."""
