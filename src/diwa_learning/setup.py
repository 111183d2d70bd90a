"""Build of the ROS 2 package; the pip install of the whole project is described in the root pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="diwa_learning",
    version="0.2.0",
    packages=find_packages(include=["diwa_learning", "diwa_learning.*"]),
    package_data={"diwa_learning": ["py.typed"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_learning"]),
        ("share/diwa_learning", ["package.xml"]),
        ("share/diwa_learning/launch", ["launch/train.launch.py"]),
    ],
    zip_safe=True,
    extras_require={"test": ["pytest"]},
    entry_points={"console_scripts": ["train_node = diwa_learning.ros.train_node:main"]},
)
