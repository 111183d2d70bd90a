"""The contract, poses, teleoperation, recording, bags and datasets of DiWA on ROS 2."""

__version__ = "0.2.0"
