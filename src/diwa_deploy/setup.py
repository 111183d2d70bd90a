"""Build of the ROS 2 package; the pip install of the whole project is described in the root pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="diwa_deploy",
    version="0.2.0",
    packages=find_packages(include=["diwa_deploy", "diwa_deploy.*"]),
    package_data={"diwa_deploy": ["py.typed", "skills/*/*", "skills/*/*/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_deploy"]),
        ("share/diwa_deploy", ["package.xml"]),
        ("share/diwa_deploy/launch", ["launch/run_skill.launch.py", "launch/arm.launch.py"]),
    ],
    zip_safe=True,
    extras_require={"test": ["pytest"]},
    entry_points={
        "console_scripts": [
            "preflight = diwa_deploy.ros.preflight:main",
            "panda_arm_node = diwa_deploy.ros.panda_arm_node:main",
            "policy_node = diwa_deploy.ros.policy_node:main",
            "franka_node = diwa_deploy.ros.franka_node:main",
            "gripper_node = diwa_deploy.ros.gripper_node:main",
            "run_skill_node = diwa_deploy.ros.run_skill:main",
        ]
    },
)
