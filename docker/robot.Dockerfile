# The robot machine: ROS 2 Jazzy, torch in the same Python 3.12, and the workspace. From the top folder of the clone:
#   docker build -f docker/robot.Dockerfile -t diwa-robot .
FROM ros:jazzy-ros-base-noble AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# The archives of Ubuntu and ROS keep no old versions: a pinned one would not build next month.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential cmake python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

# rclpy belongs to the distribution's Python, so torch goes into an environment of that Python. The lock keeps pip from
# taking binary packages of the distribution, which were built for NumPy 1.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml requirements.lock requirements-torch.txt README.md LICENSE ./
RUN /usr/bin/python3 -m venv --system-site-packages /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
    && /opt/venv/bin/pip install --no-cache-dir --index-url "${TORCH_INDEX}" -r requirements-torch.txt

COPY src src
COPY launch launch
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

# A node runs under the Python that ran colcon.
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && . /opt/venv/bin/activate \
    && python3 -m colcon --log-base /tmp/log build \
        --base-paths src --build-base /tmp/build --install-base /opt/diwa/install \
    && cp -r src/diwa_data/diwa_data/config /opt/diwa/config


FROM ros:jazzy-ros-base-noble
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        libegl1 libgl1 libgl1-mesa-dri \
        ros-jazzy-realsense2-camera ros-jazzy-rosbag2-py ros-jazzy-rosbag2-storage-mcap \
    && rm -rf /var/lib/apt/lists/*

# The same number as your own user: bags belong to you, and Fast DDS shares memory between equal users only.
ARG UID=1000
ARG GID=1000
RUN { userdel --remove ubuntu || true; } \
    && groupadd --non-unique --gid "${GID}" diwa \
    && useradd --create-home --no-log-init --uid "${UID}" --gid "${GID}" --groups video,plugdev diwa

COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/diwa /opt/diwa
COPY --chmod=755 docker/entrypoint.sh /usr/local/bin/entrypoint.sh
ENV MPLBACKEND=Agg PYTHONUNBUFFERED=1
USER ${UID}:${GID}
WORKDIR /home/diwa
# What bites in such a mixture shows here, not at the robot.
RUN entrypoint.sh python3 -c 'import rclpy, rosbag2_py, torch, diwa_deploy.ros.policy_node, diwa_sim.ros.sim_robot_node' \
    && entrypoint.sh ros2 launch diwa_deploy run_skill.launch.py --show-args
ENTRYPOINT ["entrypoint.sh"]
CMD ["bash"]
