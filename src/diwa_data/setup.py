"""Build of the ROS 2 package; the pip install of the whole project is described in the root pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="diwa_data",
    version="0.1.0",
    packages=find_packages(include=["diwa_data", "diwa_data.*"]),
    package_data={"diwa_data": ["config/*.yaml", "devices/*.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_data"]),
        ("share/diwa_data", ["package.xml"]),
        ("share/diwa_data/launch", ["launch/teleop_record.launch.py", "launch/build_dataset.launch.py"]),
    ],
    zip_safe=True,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "teleop_node = diwa_data.ros.teleop_node:main",
            "recorder_node = diwa_data.ros.recorder_node:main",
            "camera_node = diwa_data.ros.camera_node:main",
        ]
    },
)
