"""Recording: episodes as rosbag2 bags with a sidecar each."""
