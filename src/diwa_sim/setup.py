"""Build of the ROS 2 package; the pip install of the whole project is described in the root pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="diwa_sim",
    version="0.2.0",
    packages=find_packages(include=["diwa_sim", "diwa_sim.*"]),
    package_data={"diwa_sim": ["py.typed", "assets/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_sim"]),
        ("share/diwa_sim", ["package.xml"]),
        ("share/diwa_sim/launch", ["launch/sim.launch.py"]),
    ],
    zip_safe=True,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "sim_robot_node = diwa_sim.ros.sim_robot_node:main",
            "operator_node = diwa_sim.ros.operator_node:main",
        ]
    },
)
