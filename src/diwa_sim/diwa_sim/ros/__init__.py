"""The simulated robot and the scripted operator as nodes. Only here is ROS imported."""
