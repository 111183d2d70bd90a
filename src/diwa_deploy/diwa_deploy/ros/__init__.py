"""The deployment node and what runs a skill with it. Only here is ROS imported."""
