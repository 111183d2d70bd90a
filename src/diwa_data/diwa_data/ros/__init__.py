"""The nodes of teleoperation and recording: message -> call -> message, nothing else. Only here is ROS imported."""
