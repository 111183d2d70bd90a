"""Datasets: bags at 30 Hz, aligned to 7.5 Hz in one HDF5 file."""
