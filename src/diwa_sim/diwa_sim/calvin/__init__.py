"""CALVIN's environment and its start states."""
