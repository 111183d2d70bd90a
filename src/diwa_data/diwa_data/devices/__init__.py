"""What an operator holds: controllers behind `diwa_data.teleop.Device`. Switching them changes nothing downstream."""
