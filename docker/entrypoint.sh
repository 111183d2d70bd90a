#!/bin/bash
# Runs a command with ROS 2, the environment that holds torch, and the workspace.
set -eo pipefail  # not -u: the setup files of ROS 2 read variables that are not set

# shellcheck disable=SC1090
source "/opt/ros/${ROS_DISTRO}/setup.bash"
# shellcheck disable=SC1091
source /opt/venv/bin/activate
# shellcheck disable=SC1091
source /opt/diwa/install/setup.bash
exec "$@"
