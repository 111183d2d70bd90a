"""The `diwa` command: arguments and wiring."""
