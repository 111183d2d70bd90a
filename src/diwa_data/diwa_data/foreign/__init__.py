"""Recordings that others made with their own software, read through a mapping file."""
