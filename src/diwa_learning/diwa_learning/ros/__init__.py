"""The node that trains. Only here is ROS imported."""
