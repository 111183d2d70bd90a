"""Teleoperation: the clutch and the devices that people hold."""
