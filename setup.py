"""What pyproject.toml cannot say: data/weights, at the top of a checkout, is installed as recon/data/weights."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["recon*", "retrieval*", "viewer*", "cli*"]), "recon.data.weights"],
    package_dir={"recon.data.weights": "data/weights"},
)
