"""Build of the ROS 2 package; the pip install of the whole project is described in the root pyproject.toml."""

from setuptools import find_packages, setup

setup(
    name="diwa_cli",
    version="0.2.0",
    packages=find_packages(include=["diwa_cli", "diwa_cli.*"]),
    package_data={"diwa_cli": ["py.typed", "templates/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_cli"]),
        ("share/diwa_cli", ["package.xml"]),
    ],
    zip_safe=True,
    extras_require={"test": ["pytest"]},
    entry_points={"console_scripts": ["diwa = diwa_cli.main:main"]},
)
