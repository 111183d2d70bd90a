"""The commands of `diwa`: flags in, one call, a line out."""
