"""Datasets in LeRobot's format."""
